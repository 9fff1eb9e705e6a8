"""Data that several tests share."""
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device, and is skipped without one; `benchmarks/gpu.py` runs these")


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


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    "A folder as `make reproduce` leaves it, artifacts/<scale>: drawn pictures and films, and captioners that have hardly learned."
    import json

    import torch
    from safetensors.torch import save_file

    from cgsaliency.data.flickr30k import load_flickr30k
    from cgsaliency.data.text import Vocabulary, save_vocabulary
    from cgsaliency.data.toybox import make_flickr30k
    from cgsaliency.data.toyfilms import make_msrvtt
    from cgsaliency.models.backbone import NETWORKS
    from cgsaliency.models.mean_pool import MeanPool
    from cgsaliency.models.ready import TRAINED
    from cgsaliency.models.s2vt import S2VT
    from cgsaliency.models.soft_attention import SoftAttention

    root = tmp_path_factory.mktemp("run") / "toybox"
    make_flickr30k(root / "data", train=8, val=2, test=6, seed=7)
    make_msrvtt(root / "data/msrvtt", train=1, val=1, test=1, seed=7)
    vocabulary = Vocabulary.of([sentence.tokens for part in ("train", "test") for record in load_flickr30k(root / "data", part).records for sentence in record.sentences])
    torch.manual_seed(0)
    (root / "cgvs").mkdir(parents=True); (root / "ebr").mkdir()
    save_file(NETWORKS["toynet"].build().state_dict(), root / "cgvs/weights.safetensors")
    (root / "cgvs/describer.json").write_text(json.dumps({"network": "toynet", "rows": 8, "columns": 8, "weights": "weights.safetensors"}))
    sizes = {S2VT: {"features": 96, "embedding": 16, "words": 8, "hidden": 16}, SoftAttention: {"features": 96, "words": 8, "hidden": 16, "attending": 8}, MeanPool: {"features": 96, "words": 8, "hidden": 16}}
    for own in TRAINED.values():
        folder = root / own.folder
        folder.mkdir(parents=True)
        model = own.kind(vocabulary, **sizes[own.kind])
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
            if parameter.shape == (len(vocabulary),): parameter.data[0] = parameter.data.median()       # it does not end its sentences at once
        save_file(model.state_dict(), folder / "best.safetensors")
        (folder / "sizes.json").write_text(json.dumps(sizes[own.kind]))
        save_vocabulary(vocabulary, folder / "vocabulary.json")
    for name in ("cgvs/captioner", "cgvs/crops", "cgvs/films", "ebr/captioner"): (root / f"{name}.json").write_text(json.dumps({"settings": {"frames": 5, "films": {"frames": 5}}}))
    return root


@pytest.fixture(scope="session")
def chromium():
    "A headless Chromium."
    import os, shutil, sys

    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    where = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if where is None: pytest.skip("no Chromium is installed (Debian: apt install chromium, or CHROMIUM=/where/it/is)")
    sys.path.insert(0, str(ROOT / "tools"))
    from look import FLAGS

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=where, args=FLAGS)
        yield browser
        browser.close()
