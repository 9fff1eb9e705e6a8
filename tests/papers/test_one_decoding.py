"""Tables 1, 2 and 4 and figure 4 of aoa agree: one decoding for all, and the same weights have the same scores."""

import pandas as pd
import pytest
import torch

from cgsaliency.core.io import read_json
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.evaluate.multi_seed import score_captions
from cgsaliency.features.region_encoder import RegionEncoder
from cgsaliency.features.region_inputs import RegionInputs
from cgsaliency.models.base import load_captioner
from cgsaliency.models.region_captioner import RegionCaptioner
from cgsaliency.reproduce.scale_config import load_scale
from cgsaliency.train.areas import ComparisonData, generate_region_captions
from cgsaliency.train.captioner import encode_captions
from cgsaliency.train.loop import TrainConfig

SCALES = ("smoke", "toybox", "sample", "paper", "rehearsal")
DECODING = ("beam_size", "test_regions", "validation_metric")
STRIDE_AT_TEST = {"grid": {"stride": 1}, "spatial_transformers": {"stride": 1}}


def captioner_sections(scale: str) -> dict[str, dict]:
    "Return the settings of the sections of aoa that train or decode captioners."
    sections = load_scale(scale)
    return {name: values for name, values in sections.items() if name.startswith("aoa/") and "beam_size" in values}


@pytest.mark.parametrize("scale", SCALES)
def test_all_sections_of_a_scale_decode_alike(scale):
    sections = captioner_sections(scale)
    assert sections
    for name in DECODING:
        chosen = {section: values[name] for section, values in sections.items() if name in values}
        first, *others = chosen.values()
        assert all(value == first for value in others), (name, chosen)


@pytest.mark.parametrize("scale", ("smoke", "toybox", "paper"))
def test_the_papers_numbers_of_regions_and_metric(scale):
    for section, values in captioner_sections(scale).items():
        if "test_regions" in values:
            assert values["test_regions"] == STRIDE_AT_TEST | {"proposals": {"num_boxes": 1000}}, section
            assert values["validation_metric"] == "CIDEr-D", section
            trained = [model for model in values.get("models", {}).values() if "folder" not in model]
            for encoder in (model["encoder_kwargs"] for model in trained):
                assert encoder["region_type"] == "proposals" or encoder["stride"] == 2, (section, encoder)


@pytest.mark.parametrize("region_type", STRIDE_AT_TEST)
def test_a_trained_and_a_loaded_captioner_generate_the_same_captions(toybox, tmp_path, region_type):
    samples = load_flickr30k(toybox, "train").samples[:6]
    vocabulary = Vocabulary.from_captions([caption.tokens for sample in samples for caption in sample.captions])
    captions = encode_captions(list(samples), vocabulary, 12, 2)
    inputs = RegionInputs.from_images(samples, "toyvgg")
    torch.manual_seed(0)
    weights = RegionEncoder("toyvgg", num_classes=4).network.state_dict()
    comparison = ComparisonData(
        dict.fromkeys(("train", "val", "test"), inputs),
        dict.fromkeys(("train", "val"), captions),
        vocabulary,
        {"network": "toyvgg", "num_classes": 4},
        weights,
    )
    comparison.train(
        tmp_path,
        {"region_type": region_type, "stride": 2},
        {"word_dim": 8, "hidden_dim": 12},
        TrainConfig(epochs=2, batch_size=3, learning_rate=0.01),
        finetune_cnn=True,
        beam_size=3,
        test_regions=STRIDE_AT_TEST,
    )
    captioner = load_captioner(RegionCaptioner, tmp_path)
    for name, beam_size in (("captions", 3), ("captions_greedy", 1)):
        decoded = generate_region_captions(captioner, inputs, beam_size, batch_size=4, stride=1)
        assert read_json(tmp_path / f"{name}.json") == decoded


def test_the_score_of_a_captioner_does_not_depend_on_the_others():
    references = {"1": ["a man plays a guitar"], "2": ["a dog sits on the grass"], "3": ["a woman near a car"]}
    generated = {"1": "a man plays a guitar", "2": "a dog on the grass", "3": "a woman stands"}
    others = {"1": "a car", "2": "a guitar on the grass", "3": "the woman near the car"}
    alone = score_captions({("full", 0): generated}, references)
    beside = score_captions({("baseline", 0): others, ("full", 0): generated, ("full", 1): others}, references)
    rows = beside[(beside.method == "full") & (beside.seed == 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, rows, check_exact=True)
