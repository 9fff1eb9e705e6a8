"""Data that several tests share."""
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "The folder of small real data beside the project, where there is one."
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir(): pytest.skip("no ../shared/data beside the project: the real data is not part of it")
    return folder


@pytest.fixture(scope="session")
def toybox(tmp_path_factory) -> Path:
    "A small toybox in the official formats of Flickr30k and Flickr30k Entities: 12 pictures."
    from cgsaliency.data.toybox import make_flickr30k

    return make_flickr30k(tmp_path_factory.mktemp("drawn") / "toybox", train=8, val=2, test=2, seed=7)
