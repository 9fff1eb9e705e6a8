"""What the action LSTM and its explainers make of short clips and of unknown classes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from assertions import assert_input_error
from cgsaliency.data.concat_videos import make_concat_videos
from cgsaliency.data.media import read_frames, write_video
from cgsaliency.data.ucf101 import (
    load_ucf101,
)
from cgsaliency.explain.cnn_rnn import bp_r, eb_r
from cgsaliency.explain.excitation import excitation_backprop
from cgsaliency.explain.excitation_rnn import temporal_evidence
from cgsaliency.explain.gradient import gradient_saliency, recurrent_gradient
from cgsaliency.features.frame_extractor import FC7_LAYER as FC7
from cgsaliency.features.toy_cnn import ToyVGG
from cgsaliency.features.video_features import VideoFeatures
from cgsaliency.models.cnn_lstm import ActionLSTM, predict_video, sliding_clips
from cgsaliency.train.action import train_action_lstm
from cgsaliency.train.loop import TrainConfig

# UCF101: XML of many hands

XGTF_HEAD = (
    '<?xml version="1.0"?><viper xmlns="http://lamp.cfar.umd.edu/viper#"'
    ' xmlns:data="http://lamp.cfar.umd.edu/viperdata#"><config/><data><sourcefile filename="a.avi"><file id="0"'
    ' name="Information">{}</file>'
)
ATTRIBUTE = '<attribute name="{}"><data:{} value="{}"/></attribute>'
XGTF_TAIL = "</sourcefile></data></viper>"


def person_xml(spans: dict[str, tuple], flags: dict[str, str], flag: str = "Diving") -> str:
    boxes = "".join(
        '<data:bbox framespan="{}" x="{}" y="{}" width="{}" height="{}"/>'.format(span, *box)
        for span, box in spans.items()
    )
    acts = "".join(f'<data:bvalue framespan="{span}" value="{value}"/>' for span, value in flags.items())
    return (
        f'<object framespan="1:9" id="3" name="PERSON"><attribute name="Location">{boxes}</attribute><attribute'
        f' name="{flag}">{acts}</attribute></object>'
    )


BOX = (10, 20, 30, 40)

# UCF101: lists, clips and boxes together

LIST_FILES = {
    "classInd.txt": "1 Diving\n2 GolfSwing\n",
    "trainlist01.txt": "Diving/v_Diving_g05_c01.avi 1\nGolfSwing/v_GolfSwing_g02_c01.avi 2\n",
    "testlist01.txt": "Diving/v_Diving_g01_c01.avi\nGolfSwing/v_GolfSwing_g01_c01.avi\n",
}


@pytest.fixture
def dataset(tmp_path) -> Path:
    "Two test clips of 9 frames, with their boxes, in a folder like UCF101's."
    for name in ("Diving", "GolfSwing"):
        write_video(
            tmp_path / f"UCF-101/{name}/v_{name}_g01_c01.avi",
            [Image.new("RGB", (64, 48), (20 * k, 80, 90)) for k in range(9)],
        )
        path = tmp_path / f"UCF101_24_Annotations/{name}/v_{name}_g01_c01.xgtf"
        path.parent.mkdir(parents=True)
        path.write_text(
            XGTF_HEAD.format(ATTRIBUTE.format("NUMFRAMES", "dvalue", 9))
            + person_xml({"1:9": BOX}, {"1:9": "true"}, name)
            + XGTF_TAIL
        )
    (tmp_path / "ucfTrainTestlist").mkdir()
    for file, text in LIST_FILES.items():
        (tmp_path / "ucfTrainTestlist" / file).write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def recognizer() -> ActionLSTM:
    torch.manual_seed(0)
    return ActionLSTM(("Diving", "GolfSwing"), feature_dim=6, hidden_dim=5).eval()


def test_clips_shorter_than_the_window_keep_all_frames(dataset, recognizer, tmp_path):
    "No frame is dropped, and repeated frames are counted."
    (sample,) = load_ucf101(dataset, boxes="official", classes=["Diving"]).samples
    clip = read_frames(sample.path, 16)
    assert (
        (clip.total_frames, len(clip.frames)) == (9, 16)
        and clip.indices == (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)
        and max(action.frames[-1] for action in sample.actions) == 8
    )
    assert (
        sliding_clips(9) == [range(9)]
        and sliding_clips(15) == [range(15)]
        and sliding_clips(16) == [range(16)]
        and sliding_clips(17) == [range(16), range(1, 17)]
    )
    values = torch.rand(9, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        predict_video(recognizer, values), recognizer.scores(values[None]).softmax(-1)[0].mean(0), atol=1e-6
    )  # its nine frames, each once
    trained, history = train_action_lstm(
        tmp_path / "action_lstm",
        ("Diving", "GolfSwing"),
        {"feature_dim": 6, "hidden_dim": 5},
        [values, values.flip(1)],
        torch.tensor([0, 1]),
        TrainConfig(epochs=1, batch_size=2),
        progress=False,
    )
    assert len(history) == 1 and predict_video(trained, values).shape == (2,)
    video, _ = make_concat_videos([("Diving", 9), ("GolfSwing", 30)], "GT+rand", 24, None, seed=0)
    assert video.clip_indices.count(0) == 12 and sorted(
        {frame for source, frame in zip(video.clip_indices, video.frame_indices) if source == 0}
    ) == list(range(9))
    assert temporal_evidence(recognizer, values[None], 1).shape == (1, 9, 6)
    assert_input_error(lambda: sliding_clips(0), "video: has no frame", "Leave it out")
    assert_input_error(
        lambda: make_concat_videos([("Diving", 0), ("GolfSwing", 30)], "GT+rand", 16, None, seed=0),
        "source 0: has 0 frames",
        "Omit it",
    )


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_forget_bias_decides_how_far_back_evidence_reaches(kind):
    "With biases of zero the state is halved at each step; with a forget bias the first of 64 steps still counts."
    values = torch.ones(1, 64, 6)
    shares = {}
    for forget_bias in (0.0, 4.0):
        torch.manual_seed(0)
        lstm = ActionLSTM(("a", "b"), 6, 16, kind, init_range=0.01, forget_bias=forget_bias)
        evidence = temporal_evidence(lstm, values, 0, contrastive=False, variant="paper")[0].sum(1)
        shares[forget_bias] = float(evidence[:32].sum())
    assert shares[0.0] < 1e-6 and 0.1 < shares[4.0] < 0.5


def test_recurrent_weights_start_in_the_given_range():
    lstm = ActionLSTM(("a", "b"), 6, 16, init_range=0.01, forget_bias=2.0)
    biases = {"i": -2.0, "f": 2.0, "g": 0.0, "o": 0.0}
    assert max(float(weight.detach().abs().max()) for weight in lstm.rnn.parameters() if weight.ndim == 2) <= 0.01
    assert torch.equal(lstm.rnn.bias_ih_l0, torch.tensor(list(biases.values())).repeat_interleave(16))
    assert not lstm.rnn.bias_hh_l0.any()


def test_unknown_class_indices_are_reported(recognizer):
    values, frames = torch.rand(1, 9, 6), torch.rand(2, 3, 112, 112)
    for class_index in (2, -1):
        for explain in (temporal_evidence, recurrent_gradient):
            assert_input_error(
                lambda: explain(recognizer, values, class_index),
                f"class: index {class_index}; the classifier has 2",
                "Count them from 0",
            )
    network = ToyVGG(2, channels=8, hidden_dim=6).eval()
    for explain in (eb_r, bp_r):
        assert_input_error(
            lambda: explain(network, FC7, recognizer, frames, {"Juggling": 7}, "features.9"),
            "class: index 7; the classifier has 2",
            "Count them from 0",
        )
    for explain in (excitation_backprop, gradient_saliency):
        assert_input_error(
            lambda: explain(network, frames, {"Juggling": 7}, "features.9"),
            "class 'Juggling': has index 7; the network has 2 classes",
            "Count them from 0",
        )
    test_videos = VideoFeatures(("a", "b"), ("Diving", "Juggling"), (values[0], values[0]), (25.0, 25.0))
    assert_input_error(
        lambda: test_videos.label_indices(recognizer.classes),
        "are of class 'Juggling', which is not among Diving, GolfSwing",
        "Use the classes of the training videos",
    )
