"""Fixtures that several rooms of tests share, and the markers that fixtures imply."""

import json
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MARKERS_OF_FIXTURES = {"shared_data": "real_data", "chromium": "browser"}


def pytest_collection_modifyitems(items):
    "Add the markers that the fixtures of a test imply, directly or through other fixtures."
    for item in items:
        for fixture, marker in MARKERS_OF_FIXTURES.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "The folder of small real data beside the project; the test is skipped without it."
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the project: the real data is not part of it")
    return folder


@pytest.fixture(scope="session")
def toybox(tmp_path_factory) -> Path:
    "Twelve synthetic images in the official formats of Flickr30k and Flickr30k Entities."
    from cgsaliency.synth.write_flickr30k import write_flickr30k

    return write_flickr30k(tmp_path_factory.mktemp("drawn") / "toybox", train=8, val=2, test=2, seed=7)


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> dict[str, Path]:
    "Paths of videos of 40 frames by container: 'avi', 'mp4', and 'fast', an MP4 whose index comes first."
    from video_helpers import write_test_videos

    return write_test_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The folder artifacts/<scale> of a run as `make reproduce` leaves it: synthetic images and videos, and captioners
    with random weights."""
    import torch
    from safetensors.torch import save_file

    from cgsaliency.data.flickr30k import load_flickr30k
    from cgsaliency.data.vocabulary import Vocabulary, save_vocabulary
    from cgsaliency.features.backbone import BACKBONES
    from cgsaliency.models.mean_pool import MeanPoolCaptioner
    from cgsaliency.models.registry import CHECKPOINTS
    from cgsaliency.models.s2vt import S2VT
    from cgsaliency.models.soft_attention import SoftAttention
    from cgsaliency.synth.write_flickr30k import write_flickr30k
    from cgsaliency.synth.write_msvd_msrvtt import write_msrvtt

    root = tmp_path_factory.mktemp("run") / "toybox"
    write_flickr30k(root / "data", train=8, val=2, test=6, seed=7)
    write_msrvtt(root / "data/msrvtt", train=1, val=1, test=1, seed=7)
    vocabulary = Vocabulary.from_captions(
        [
            caption.tokens
            for split in ("train", "test")
            for sample in load_flickr30k(root / "data", split).samples
            for caption in sample.captions
        ]
    )
    torch.manual_seed(0)
    (root / "cgvs").mkdir(parents=True)
    (root / "ebr").mkdir()
    save_file(BACKBONES["toynet"].build().state_dict(), root / "cgvs/weights.safetensors")
    (root / "cgvs/extractor.json").write_text(
        json.dumps({"network": "toynet", "rows": 8, "columns": 8, "weights": "weights.safetensors"})
    )
    model_kwargs = {
        S2VT: {"feature_dim": 96, "embed_dim": 16, "word_dim": 8, "hidden_dim": 16},
        SoftAttention: {"feature_dim": 96, "word_dim": 8, "hidden_dim": 16, "attention_dim": 8},
        MeanPoolCaptioner: {"feature_dim": 96, "word_dim": 8, "hidden_dim": 16},
    }
    for checkpoint in CHECKPOINTS.values():
        folder = root / checkpoint.folder
        folder.mkdir(parents=True)
        model = checkpoint.model_class(vocabulary, **model_kwargs[checkpoint.model_class])
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
            # the bias of the output: captions do not end at once
            if parameter.shape == (len(vocabulary),):
                parameter.data[0] = parameter.data.median()
        save_file(model.state_dict(), folder / "best.safetensors")
        (folder / "model_kwargs.json").write_text(json.dumps(model_kwargs[checkpoint.model_class]))
        save_vocabulary(vocabulary, folder / "vocabulary.json")
    for name in ("cgvs/captioner", "cgvs/captioners_crop", "cgvs/captioners_video", "ebr/captioner"):
        settings = {"num_frames": 5, "videos": {"num_frames": 5}}
        (root / f"{name}.json").write_text(json.dumps({"settings": settings}))
    return root


@pytest.fixture(scope="session")
def chromium():
    "A headless Chromium; the test is skipped without one."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    installed = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    path = os.environ.get("CHROMIUM") or next(installed, None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium, or CHROMIUM=/where/it/is)")
    from check_site import FLAGS

    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
