"""The index of videos: the same samples with and without it, several writing processes, and broken videos."""

import json
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from assertions import assert_input_error
from cgsaliency.data.media import (
    frame_timestamps,
    read_frames,
    video_size,
    write_video,
)
from cgsaliency.data.thumos14 import load_thumos14
from cgsaliency.data.ucf101 import load_ucf101
from cgsaliency.data.video_index import VideoIndex
from cgsaliency.data.video_reader import iterate_chunks, iterate_clips
from cgsaliency.synth.write_ucf101_thumos14 import write_thumos14, write_ucf101
from process_helpers import fork, was_killed
from video_helpers import VIDEO_DATASETS, VIDEO_FAULTS, frame_with_square

# The index of the videos, and worker processes

INDEXED = ("frame_size", "fps_and_duration", "frame_times")


def fail_to_open(*_, **__):
    raise AssertionError("a video was opened")


@pytest.mark.parametrize("fault", [None, "missing", "half cut off"])
def test_samples_are_the_same_with_an_index_and_reloading_opens_no_video(
    dataset_name, video_dataset_copy, tmp_path, fault
):
    _, load = VIDEO_DATASETS[dataset_name]
    if fault:
        VIDEO_FAULTS[fault][0](load(video_dataset_copy).samples[1].path)
    plain = load(video_dataset_copy, on_error="skip")
    assert load(video_dataset_copy, on_error="skip", index=VideoIndex(tmp_path / "index")) == plain
    with patch("av.open", fail_to_open):
        again = load(video_dataset_copy, on_error="skip", index=VideoIndex(tmp_path / "index"))
    assert again == plain and len(again.skipped) == bool(fault)
    if fault:
        assert_input_error(
            lambda: load(video_dataset_copy, index=VideoIndex(tmp_path / "index")), VIDEO_FAULTS[fault][1]
        )


def test_action_samples_are_the_same_with_an_index(tmp_path):
    clips, videos = (
        write_ucf101(tmp_path / "ucf101", 1, 1, 1, seed=3),
        write_thumos14(tmp_path / "thumos14", 1, 1, seed=3),
    )
    loads = {
        "frames": partial(load_ucf101, clips, "test"),
        "boxes": partial(load_ucf101, clips, "test", boxes="official"),
        "videos": partial(load_thumos14, videos, "test"),
    }
    for kind, load in loads.items():
        plain = load()
        assert load(index=VideoIndex(tmp_path / kind)) == plain
        with patch("av.open", fail_to_open):
            assert load(index=VideoIndex(tmp_path / kind)) == plain


def test_several_processes_fill_one_index(videos, tmp_path):
    paths = [Path(shutil.copy(videos["avi"], tmp_path / f"{k}.avi")) for k in range(40)]

    def fill(process_paths: list[Path]) -> None:
        index = VideoIndex(tmp_path / "index")
        for path in process_paths:
            index.frame_times(path)

    for process_id in [fork(partial(fill, paths[k::4] + paths[:5])) for k in range(4)]:
        assert not was_killed(process_id)
    lines = (tmp_path / "index/videos.jsonl").read_text().splitlines()
    assert {json.loads(line)["path"] for line in lines} == {str(path) for path in paths}
    with patch("av.open", fail_to_open):
        index = VideoIndex(tmp_path / "index")
        assert {index.frame_times(path) for path in paths} == {tuple(k / 25 for k in range(40))}


@pytest.mark.parametrize("num_lost", [1, 20, 60])
def test_an_index_with_a_truncated_line_is_continued(videos, tmp_path, num_lost):
    paths = [Path(shutil.copy(videos["avi"], tmp_path / f"{k}.avi")) for k in range(3)]
    VideoIndex(tmp_path).build(paths[:2], INDEXED)
    content = VideoIndex(tmp_path).path.read_bytes()
    VideoIndex(tmp_path).path.write_bytes(content[:-num_lost])
    index = VideoIndex(tmp_path)
    assert index.known_times(paths[0]) and not index.known_times(paths[1])
    for _ in range(2):
        assert not index.build(paths, INDEXED)
    with patch("av.open", fail_to_open):
        assert [len(VideoIndex(tmp_path).frame_times(path)) for path in paths] == [40] * 3
    assert len(VideoIndex(tmp_path).path.read_text().splitlines()) == 4


def test_broken_videos_are_never_in_the_index(videos, tmp_path):
    for fault, (damage, message) in VIDEO_FAULTS.items():
        path = Path(shutil.copy(videos["mp4"], tmp_path / "video.mp4"))
        damage(path)
        index = VideoIndex(tmp_path / "index")
        (error,) = index.build([path], INDEXED).values()
        assert message in str(error)
        for read in (video_size, frame_timestamps):
            assert_input_error(lambda: read(path, index), message, path.name)
        assert_input_error(lambda: read_frames(path, index=index), message)
        assert_input_error(lambda: list(iterate_clips([path], index=index)), message)
        assert_input_error(lambda: list(iterate_chunks([path], index=index)), message)
        assert not index.path.exists(), fault
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["avi", "mp4"])
def test_videos_of_variable_rate_are_read_the_same_with_an_index(videos, tmp_path, kind):
    frame_times = [0, 1, 2, 30, 31, 80, 81, 82, 83, 200]
    variable = write_video(tmp_path / "late.mp4", [frame_with_square(k) for k in range(10)], fps=25, times=frame_times)
    for path in variable, videos[kind]:
        index = VideoIndex(tmp_path / "index")
        for _ in range(2):
            for count in 1, 4, 26, 100:
                plain, indexed = read_frames(path, count), read_frames(path, count, index=index)
                assert (plain.times, plain.indices, plain.total_frames) == (
                    indexed.times,
                    indexed.indices,
                    indexed.total_frames,
                )
                assert [frame.tobytes() for frame in plain.frames] == [frame.tobytes() for frame in indexed.frames]
        assert index.frame_times(path) == frame_timestamps(path)
