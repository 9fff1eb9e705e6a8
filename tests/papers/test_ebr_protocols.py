"""The settings of ebr's tables 1, 3 and 4 are those of the paper; all tables have both variants of EB through time."""

import pytest
from test_paper_notebooks import PAPERS, calls, code_of

from cgsaliency.data.ucf101 import CLASSES24
from cgsaliency.explain.excitation_rnn import VARIANTS
from cgsaliency.features.backbone import BACKBONES
from cgsaliency.reproduce.scale_config import load_scale
from cgsaliency.reproduce.tables import paper_rows

SCALES = ("smoke", "toybox", "sample", "paper", "rehearsal")
WITH_VIDEOS = ("smoke", "toybox", "paper", "rehearsal")  # scales with UCF101 and THUMOS14


@pytest.fixture(params=WITH_VIDEOS)
def settings(request):
    return load_scale(request.param)


def test_frames_of_table_1_are_those_of_the_paper():
    "All videos with official boxes, of all splits; frames of the whole video, in clips as in training."
    settings = load_scale("paper")
    table = settings["ebr/table1"]
    assert set(table["splits"]) == {"train", "val", "test"} and table["box_source"] == "official"
    assert len(CLASSES24) == 24 and "num_frames" not in table


def test_clips_of_table_1_have_the_length_of_training(settings):
    "Clips of 128 frames, as in the authors' demonstration, are shown beside where the training has much shorter ones."
    length = settings["ebr/action_lstm"]["clip_length"]
    assert settings["ebr/table1"]["clip_lengths"] == ([length, 128] if length == 16 else [length])
    assert settings["ebr/frame_cnn"]["finetuning"]["clip_length"] == 16 <= length <= 128
    assert load_scale("paper")["ebr/action_lstm"]["clip_length"] == 16


def test_the_cnn_is_fine_tuned_with_an_lstm_of_the_same_size(settings):
    finetuning = settings["ebr/frame_cnn"]["finetuning"]
    assert finetuning["model_kwargs"] == settings["ebr/action_lstm"]["model_kwargs"]


def test_layers_of_table_1_are_those_of_the_last_block(settings):
    network = settings["ebr/frame_cnn"]["network"]
    target_layer, layers = BACKBONES[network].target_layer, settings["ebr/table1"]["layers"]
    assert layers and target_layer not in layers
    last_blocks = {"vgg16": {"features.25", "features.27", "features.29"}, "toyvgg": {"features.7", "features.9"}}
    assert {target_layer, *layers} == last_blocks[network]


def test_the_first_radius_is_that_of_the_paper(settings):
    assert settings["ebr/table1"]["radii"][0] == 15 / 2


def test_long_videos_have_one_frame_rate(settings):
    assert settings["ebr/table3"]["fps"] == settings["ebr/action_lstm"]["video_fps"] == 25
    assert settings["ebr/table3"]["num_frames"] == 128, "table 4 reads the scores of table 3"
    assert settings["ebr/table3"]["protocol"] == {"unit": "main", "within": "own"}


@pytest.mark.parametrize("scale", SCALES)
def test_no_variant_is_hidden_behind_a_setting(scale):
    for section, settings in load_scale(scale).items():
        if section.startswith("ebr/"):
            assert not {"variant", "variants"} & set(settings), section


@pytest.mark.parametrize("name", [f"table{number}" for number in range(1, 6)])
def test_tables_have_both_variants(name):
    "The rows of each variant are measured, and so are the claims."
    source = code_of(PAPERS / f"ebr/{name}.ipynb")
    assert len(VARIANTS) == 2 and "VARIANTS" in source
    assert list(calls(source, "variant_claims")) and list(calls(source, "compare_variants"))


def test_reference_rows_are_not_in_the_paper():
    source = code_of(PAPERS / "ebr/table1.ipynb")
    added = ("random", "center", "strongest descriptor", "another class", "mean of all classes")
    assert all(f'"{name}' in source or f'", {name}"' in source for name in added)
    assert not {"random", "center"} & set(paper_rows("ebr", "table1").method)
