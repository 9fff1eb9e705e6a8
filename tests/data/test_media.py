"""Reading and writing of videos: broken files are reported; frames, times and rates are those of the file."""

import re
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import pytest

from assertions import assert_input_error
from cgsaliency.data import media
from cgsaliency.data.media import (
    frame_timestamps,
    frames_in_chunks,
    read_frames,
    uniform_indices,
    video_size,
    write_video,
)
from video_helpers import VIDEO_FAULTS, frame_with_square


def write_video_without_frames(path: Path) -> None:
    "Write a container with a video stream that has no frame."
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()


@pytest.mark.parametrize("kind", ["avi", "mp4", "fast"])
@pytest.mark.parametrize("fault", VIDEO_FAULTS)
def test_broken_videos_are_reported_with_a_hint(videos, tmp_path, kind, fault):
    path = Path(shutil.copy(videos[kind], tmp_path))
    damage, message = VIDEO_FAULTS[fault]
    assert read_frames(path).total_frames == 40
    damage(path)
    for read in (video_size, frame_timestamps, read_frames):
        error = assert_input_error(lambda: read(path), message, path.name)
        assert "etch the" in error.hint
    assert [file.name for file in tmp_path.iterdir()] in ([path.name], [])


# MP4 omits an empty stream
@pytest.mark.parametrize("suffix, message", [("avi", "has no frame"), ("mp4", "holds no video stream")])
def test_videos_without_frames_are_reported(tmp_path, suffix, message):
    path = tmp_path / f"none.{suffix}"
    write_video_without_frames(path)
    assert path.stat().st_size > 200
    for read in (video_size, frame_timestamps, read_frames):
        assert_input_error(lambda: read(path), message, path.name)


def test_a_file_with_sound_only_is_reported(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 8000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert_input_error(lambda: read_frames(path), "song.mp4: holds no video stream")


def test_short_videos_repeat_frames(tmp_path):
    clip = read_frames(write_video(tmp_path / "short.avi", [frame_with_square(k) for k in range(5)], fps=10))
    assert (
        clip.total_frames == 5
        and clip.indices == tuple(uniform_indices(5))
        and Counter(clip.indices) == {0: 4, 1: 6, 2: 6, 3: 6, 4: 4}
    )
    assert clip.times == pytest.approx([k / 10 for k in clip.indices]) and len(clip.frames) == 26


def test_variable_frame_rates_keep_their_timestamps(tmp_path):
    frame_times = [0, 1, 2, 30, 31, 80, 81, 82, 83, 200]
    clip = read_frames(
        write_video(tmp_path / "late.mp4", [frame_with_square(k) for k in range(10)], fps=25, times=frame_times), 4
    )
    assert clip.indices == (0, 3, 6, 9) and clip.times == pytest.approx([frame_times[k] / 25 for k in clip.indices])


def test_frames_coded_out_of_order_have_ascending_times(tmp_path):
    "AVI has no presentation times, and FFmpeg's guesses swap neighboring frames of such videos."
    path = tmp_path / "b.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(30):
            frame = av.VideoFrame.from_image(frame_with_square(k))
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        decoded_times = [frame.time for frame in container.decode(video=0)]
    assert decoded_times != sorted(decoded_times)  # otherwise this video tests nothing
    assert frame_timestamps(path) == pytest.approx([k / 25 for k in range(30)])


def test_failed_writing_leaves_no_file_and_keeps_the_old_one(videos, tmp_path):
    path = Path(shutil.copy(videos["avi"], tmp_path / "video.avi"))
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        write_video(path, [frame_with_square(0), frame_with_square(1), None])
    with pytest.raises(AttributeError):
        write_video(tmp_path / "new.mp4", [frame_with_square(0), None])
    assert_input_error(lambda: write_video(path, []), "video.avi: has no frame to write")
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["video.avi"]


@pytest.mark.slow
def test_real_clips_give_the_requested_frames(shared_data):
    paths = sorted((shared_data / "msvd/videos").glob("*.avi"))
    assert len(paths) == 12
    for path in paths:
        clip, times = read_frames(path), frame_timestamps(path)
        assert (
            len(clip.frames) == 26
            and clip.indices == tuple(uniform_indices(clip.total_frames))
            and clip.indices[-1] == clip.total_frames - 1
        )
        assert (
            clip.times == tuple(times[k] for k in clip.indices)
            and clip.times[0] == 0
            and clip.frames[0].size == (clip.width, clip.height) == video_size(path)
        )
        assert all(earlier < later for earlier, later in zip(times, times[1:]))
        start, end = map(int, re.search(r"_(\d+)_(\d+)$", path.stem).groups())
        assert abs(times[-1] - (end - start)) < 0.1 * (end - start) + 1  # the name has the seconds


def test_truncated_real_clips_are_reported(shared_data, tmp_path):
    path = sorted((shared_data / "msvd/videos").glob("*.avi"))[0]
    (tmp_path / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (video_size, read_frames):
        assert_input_error(lambda: read(tmp_path / path.name), f"{path.name}: is cut off")


def test_each_reading_decodes_the_video_once(videos):
    with patch("cgsaliency.data.media._decode_frames", wraps=media._decode_frames) as decoded:
        for count in None, 1, 26:
            read_frames(videos["avi"], count)
        assert decoded.call_count == 3
        list(frames_in_chunks(videos["avi"], 7))
        assert decoded.call_count == 4
