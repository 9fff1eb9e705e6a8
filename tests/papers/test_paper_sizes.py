"""Every model of scale paper makes one training step, and every explainer explains one item, at the papers' sizes.

As `make rehearse`, but with random features. Networks, layers, vocabularies, input sizes, frames of a video and regions
are those of the papers; batches and clips are short. The tests take 130 seconds of one core; the largest, a training
step of VGG-16, takes 5 GiB.
"""

import ctypes
import gc
import math
import sys
from dataclasses import replace

import pytest
import torch

from cgsaliency.core.explanation import Explanation
from cgsaliency.models.decode import greedy_search
from cgsaliency.models.region_captioner import region_captioning_loss
from units import (
    DECODING,
    EXPLAINING,
    FEATURES,
    TRAINING,
    Sizes,
    area_models,
    build_region_captioner,
    encoder_inputs,
    paper_sizes,
    random_captions,
    training_step,
    units,
)

pytestmark = pytest.mark.slow

MAX_COUNTS = {
    "batch_size": 2,
    "num_captions": 2,
    "integration_steps": 2,
}  # items, captions of each item, steps of integrated gradients


def reduce_counts(settings: object, name: str = "") -> object:
    "Return the settings with smaller counts, also in nested dictionaries."
    if isinstance(settings, dict):
        return {key: reduce_counts(value, key) for key, value in settings.items()}
    return min(settings, MAX_COUNTS[name]) if name in MAX_COUNTS and settings else settings


SIZES = replace(paper_sizes(images=2, frames=2), settings=reduce_counts(paper_sizes().settings))
UNITS = units(SIZES)


@pytest.fixture(autouse=True)
def release_memory():
    "Return the memory of a test to the system before the next one begins."
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.parametrize("name", UNITS)
def test_units_run_at_the_papers_sizes(name):
    torch.manual_seed(0)
    unit = UNITS[name]
    result = unit.make(torch.device("cpu"))()
    if unit.kind == TRAINING:
        assert math.isfinite(float(result)) and float(result) > 0
    elif unit.kind == DECODING:
        assert len(result[0]) == unit.per_call and result[1].isfinite().all()
    else:
        for values in tensors_of(result):
            assert values.isfinite().all() and values.abs().sum() > 0


MAX_REGIONS = {"grid": ({"stride": 1}, 196), "spatial_transformers": ({"stride": 1}, 196), "proposals": ({}, 1000)}


@pytest.mark.parametrize("region_type", MAX_REGIONS)
def test_captioners_run_with_the_largest_numbers_of_regions(region_type):
    torch.manual_seed(0)
    encoder_kwargs, num_regions = MAX_REGIONS[region_type]
    sizes, name = (
        replace(SIZES, proposals=num_regions),
        {"grid": "train_terms/full"}.get(region_type, f"train_region_types/{region_type}"),
    )
    section, model_settings = area_models(sizes.settings)[name]
    model_settings = model_settings | {"encoder_kwargs": model_settings["encoder_kwargs"] | encoder_kwargs}
    model = build_region_captioner(sizes, section, model_settings)
    model.region_encoder.set_finetuned(False)
    features, *extra_inputs = encoder_inputs(sizes, model_settings, 2, torch.device("cpu"))
    assert model.region_encoder.encode_regions(features, *extra_inputs)[0].shape[1] == num_regions
    captions = random_captions(2, 2, 8, len(model.vocabulary), torch.device("cpu"))
    loss = training_step(model, region_captioning_loss, (features, captions, *extra_inputs))()
    assert math.isfinite(float(loss)) and float(loss) > 0
    captions_, log_p = greedy_search(model, (features, *extra_inputs), max_words=6)
    assert len(captions_) == 2 and log_p.isfinite().all()


def tensors_of(result: object) -> list[torch.Tensor]:
    "Return the tensors of features or of an explanation, at least one."
    if isinstance(result, Explanation):
        return [result.saliency]
    values = [result] if isinstance(result, torch.Tensor) else list(result)
    assert values and all(isinstance(value, torch.Tensor) for value in values)
    return values


def test_only_counts_are_reduced():
    full = paper_sizes()
    changed = {name for name in vars(full) if getattr(full, name) != getattr(SIZES, name)}
    assert changed == {"settings", "images", "frames"} and isinstance(full, Sizes)
    assert SIZES.settings["cgvs/captioner"]["model_kwargs"] == full.settings["cgvs/captioner"]["model_kwargs"]


def test_units_cover_all_models_and_explainers():
    assert {unit.kind for unit in UNITS.values()} == {TRAINING, FEATURES, DECODING, EXPLAINING}
    training_names = " ".join(name for name, unit in UNITS.items() if unit.kind == TRAINING)
    area_settings = {
        section[4:]: section_settings
        for section, section_settings in SIZES.settings.items()
        if section.startswith("aoa/")
    }
    models = [
        f"{section}/{name}"
        for section, section_settings in area_settings.items()
        for name in section_settings.get("models", {})
    ]
    assert len(models) > 12 and all(model in training_names for model in models)
    others = (
        "S2VT, images",
        "S2VT, videos",
        "soft attention, images",
        "soft attention, videos",
        "supervised attention",
        "mean pooling",
        "VGG-16 on frames",
        "LSTM on frames",
    )
    assert all(name in training_names for name in others)
    explaining_names = " ".join(name for name, unit in UNITS.items() if unit.kind == EXPLAINING)
    explainers = (
        "CGVS",
        "EB of",
        "cEB of",
        "EB-R",
        "cEB-R",
        "gradient",
        "integrated gradients",
        "attention",
        "area attention",
        "through time",
    )
    assert all(name in explaining_names for name in explainers)
