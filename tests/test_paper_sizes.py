"""Every model of scale paper makes one training step, and every explainer explains one item, at the papers' sizes.

What `make rehearse` does with drawn data, here with random features. Networks, layers, vocabularies, input sizes,
frames of a video and regions are the papers'; batches and clips are short. It takes 130 seconds of one core; the
largest, VGG-16 in training with its moments, 5 GiB.
"""
import ctypes
import gc
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from units import (
    DECODING,
    EXPLAINING,
    FEATURES,
    TRAINING,
    Sizes,
    area_models,
    looker_of,
    paper_sizes,
    random_captions,
    seen,
    training_step,
    units,
)

from cgsaliency.core.explanation import Explanation
from cgsaliency.models.decode import greedy
from cgsaliency.models.looking import looking_loss

FEW = {"batch_size": 2, "captions": 2, "steps": 2}     # items, captions of each, points of integrated gradients


def shortened(settings: object, name: str = "") -> object:
    "The settings with fewer items; a dictionary of settings is taken apart."
    if isinstance(settings, dict):
        return {key: shortened(value, key) for key, value in settings.items()}
    return min(settings, FEW[name]) if name in FEW and settings else settings


SIZES = replace(paper_sizes(images=2, frames=2), settings=shortened(paper_sizes().settings))
UNITS = units(SIZES)


@pytest.fixture(autouse=True)
def memory_given_back():
    "Let the next test of this process begin with the memory of the one before given back to the system."
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.parametrize("name", UNITS)
def test_at_the_papers_sizes(name):
    torch.manual_seed(0)
    unit = UNITS[name]
    result = unit.make(torch.device("cpu"))()
    if unit.kind == TRAINING:
        assert math.isfinite(float(result)) and float(result) > 0
    elif unit.kind == DECODING:
        assert len(result[0]) == unit.per_call and result[1].isfinite().all()
    else:
        for values in tensors(result):
            assert values.isfinite().all() and values.abs().sum() > 0


MOST_REGIONS = {"grid": ({"stride": 1}, 196), "transformers": ({"stride": 1}, 196), "proposals": ({}, 1000)}


@pytest.mark.parametrize("kind", MOST_REGIONS)
def test_captioners_bear_the_most_regions_that_the_paper_tries(kind):
    torch.manual_seed(0)
    own_eyes, regions = MOST_REGIONS[kind]
    sizes, name = replace(SIZES, proposals=regions), {"grid": "captioners/full"}.get(kind, f"kinds/{kind}")
    section, own = area_models(sizes.settings)[name]
    own = own | {"eyes": own["eyes"] | own_eyes}
    model = looker_of(sizes, section, own)
    model.eyes.network.requires_grad_(False)
    values, *more = seen(sizes, own, 2, torch.device("cpu"))
    assert model.eyes.look(values, *more[:1])[0].shape[1] == regions
    captions = random_captions(2, 2, 8, len(model.vocabulary), torch.device("cpu"))
    loss = training_step(model, looking_loss, (values, captions, *more))()
    assert math.isfinite(float(loss)) and float(loss) > 0
    words, log_p = greedy(model, (values, *more), max_words=6)
    assert len(words) == 2 and log_p.isfinite().all()


def tensors(result: object) -> list[torch.Tensor]:
    "The tensors of features or of an explanation, at least one."
    if isinstance(result, Explanation):
        return [result.saliency]
    found = [result] if isinstance(result, torch.Tensor) else list(result)
    assert found and all(isinstance(one, torch.Tensor) for one in found)
    return found


def test_nothing_but_counts_is_smaller():
    whole = paper_sizes()
    smaller = {name for name in vars(whole) if getattr(whole, name) != getattr(SIZES, name)}
    assert smaller == {"settings", "images", "frames"} and isinstance(whole, Sizes)
    assert SIZES.settings["cgvs/captioner"]["sizes"] == whole.settings["cgvs/captioner"]["sizes"]


def test_all_kinds_of_work_and_all_models_are_there():
    assert {unit.kind for unit in UNITS.values()} == {TRAINING, FEATURES, DECODING, EXPLAINING}
    trained = " ".join(name for name, unit in UNITS.items() if unit.kind == TRAINING)
    of_regions = {section[4:]: own for section, own in SIZES.settings.items() if section.startswith("aoa/")}
    models = [f"{section}/{name}" for section, own in of_regions.items() for name in own.get("models", {})]
    assert len(models) > 12 and all(model in trained for model in models)
    others = ("S2VT, images", "S2VT, videos", "soft attention, images", "soft attention, videos",
              "supervised attention", "mean pooling", "VGG-16 on frames", "LSTM on frames")
    assert all(name in trained for name in others)
    explained = " ".join(name for name, unit in UNITS.items() if unit.kind == EXPLAINING)
    explainers = ("CGVS", "EB of", "cEB of", "EB-R", "cEB-R", "gradient", "integrated gradients", "attention",
                  "area attention", "through time")
    assert all(name in explained for name in explainers)
