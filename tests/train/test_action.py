"""Training data of long videos at a common frame rate, and fine-tuning of a CNN together with an LSTM."""

import pytest
import torch

from cgsaliency.core.errors import InputError
from cgsaliency.core.records import ActionInterval
from cgsaliency.features.toy_cnn import ToyVGG
from cgsaliency.features.video_features import VideoFeatures, load_frame_features, save_video_features
from cgsaliency.models.cnn_lstm import load_action_lstm
from cgsaliency.train.action import CNNLSTM, clip_predictions, labeled_segments, train_cnn_lstm, train_frame_cnn
from cgsaliency.train.loop import TrainConfig

ACTIONS = {"fast": (ActionInterval("Diving", 2.0, 4.0),), "slow": (ActionInterval("Diving", 2.0, 4.0),)}
LENGTH = 3  # frames of a clip


@pytest.fixture
def long_videos(tmp_path):
    "Two videos of eight seconds on disk, whose features are the times of their frames."
    times = [torch.arange(8.0 * fps)[:, None] / fps for fps in (30.0, 12.0)]
    videos = VideoFeatures(("fast", "slow"), ("Diving",) * 2, tuple(times), (30.0, 12.0))
    save_video_features(videos, tmp_path)
    return videos


def test_segments_of_resampled_videos_have_the_same_frames(long_videos):
    segments = labeled_segments(long_videos.at_fps(25.0), ACTIONS, ("Diving",), "Background", 4)
    names, frames = [name for name, _ in segments], [load_frame_features(video)[:, 0] for _, video in segments]
    assert names == ["Diving", "Background", "Background"] * 2
    for fast, slow in zip(frames[:3], frames[3:], strict=True):
        assert len(fast) == len(slow)
        assert (fast - slow).abs().max() <= 0.5 / 30 + 0.5 / 12 + 1e-3
    assert len(frames[0]) == 51 and 2 - 1 / 12 < frames[3][0] < 2 + 1 / 12
    without_resampling = labeled_segments(long_videos, ACTIONS, ("Diving",), "Background", 4)
    assert [len(video) for _, video in without_resampling[::3]] == [61, 25]


@pytest.fixture
def clips():
    images = torch.randint(0, 256, (4 * LENGTH, 3, 116, 120), dtype=torch.uint8)
    return images, torch.arange(4) % 2


def finetune(folder, clips, **options):
    torch.manual_seed(0)
    network = ToyVGG(3, channels=16, hidden_dim=8)
    config = TrainConfig(epochs=2, batch_size=2, learning_rate=0.01)
    model_kwargs = {"hidden_dim": 4, "activation": "relu"}
    arguments = (network, folder, ("a", "b"), model_kwargs, *clips, LENGTH, 112, config)
    return train_cnn_lstm(*arguments, progress=False, **options)


def test_a_finished_fine_tuning_is_loaded(clips, tmp_path):
    model, history = finetune(tmp_path, clips)
    again, history_again = finetune(tmp_path, clips)
    assert history == history_again and len(history) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert load_action_lstm(tmp_path / "lstm").classes == ("a", "b")
    with pytest.raises(InputError, match="frames=3 instead of 4"):
        finetune(tmp_path / "other", clips, settings={"frames": 3})
        finetune(tmp_path / "other", clips, settings={"frames": 4})


def test_a_training_with_other_crops_is_not_resumed(clips, tmp_path):
    finetune(tmp_path / "clips", clips)
    for options in ({"mean": (0.4,) * 3}, {"std": (0.4,) * 3}):
        with pytest.raises(InputError, match=f"{next(iter(options))}="):
            finetune(tmp_path / "clips", clips, **options)
    images, labels = clips[0], torch.arange(len(clips[0])) % 2
    config = TrainConfig(epochs=1, batch_size=6)

    def train_frames(crop_size):
        network = ToyVGG(2, channels=16, hidden_dim=8)
        return train_frame_cnn(network, tmp_path / "frames", images, labels, crop_size, config, progress=False)

    train_frames(112)
    with pytest.raises(InputError, match="crop_size=112 instead of 114"):
        train_frames(114)


def test_crops_larger_than_the_frames_are_refused(clips, tmp_path):
    arguments = ToyVGG(2, channels=16, hidden_dim=8), tmp_path, ("a", "b"), {}, *clips, LENGTH
    with pytest.raises(InputError, match="is 117; frames have 116 × 120 pixels"):
        train_cnn_lstm(*arguments, 117)


def test_clips_are_cropped_as_a_whole(clips, tmp_path, monkeypatch):
    "All frames of a clip have the same crop, and all or none are mirrored."
    images = torch.arange(120).expand(12, 3, 116, 120).byte()  # each column has its own value
    seen = []

    def record(model, inputs):
        seen.append(inputs)
        return original(model, inputs)

    original = CNNLSTM.scores
    monkeypatch.setattr(CNNLSTM, "scores", record)
    finetune(tmp_path, (images, clips[1]))
    inputs = torch.cat(seen)
    assert inputs.shape == (8, LENGTH, 3, 112, 112)
    assert (inputs == inputs[:, :1]).all()
    directions = (inputs[:, 0, 0, 0, 1] - inputs[:, 0, 0, 0, 0]).sign()
    assert set(directions.tolist()) == {-1.0, 1.0}
    assert len({round(value, 4) for value in inputs[:, 0, 0, 0].amin(1).tolist()}) > 1


def test_predictions_do_not_depend_on_the_batch(clips, tmp_path):
    model, _ = finetune(tmp_path, clips)
    images = clips[0][:, :, 2:114, 4:116]
    expected = clip_predictions(model, images, LENGTH, batch_size=4)
    assert torch.equal(clip_predictions(model, images, LENGTH, batch_size=1), expected)
    assert not model.training
