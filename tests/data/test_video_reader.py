"""Videos read in chunks and by worker processes."""

import gc
import os
import shutil
import subprocess
import sys
import time
import weakref
from operator import attrgetter
from pathlib import Path

import psutil
import pytest

from cgsaliency.data.media import (
    fps_and_duration,
    frame_timestamps,
    frames_in_chunks,
    read_frames,
    video_size,
    write_video,
)
from cgsaliency.data.video_index import VideoIndex
from cgsaliency.data.video_reader import iterate_clips
from video_helpers import frame_with_square

# The index of the videos, and worker processes

INDEXED = ("frame_size", "fps_and_duration", "frame_times")


@pytest.mark.slow
def test_reading_in_chunks_holds_at_most_one_chunk(tmp_path):
    path = write_video(tmp_path / "long.avi", [frame_with_square(k % 40) for k in range(300)])
    references = []
    for chunk in frames_in_chunks(path, 10):
        references = [reference for reference in references if reference() is not None] + [
            weakref.ref(frame) for frame in chunk
        ]
        del chunk
        gc.collect()
        assert len([reference for reference in references if reference() is not None]) <= 10


@pytest.mark.slow
def test_workers_give_the_same_results_and_wait_when_they_are_ahead(videos, tmp_path):
    paths = [Path(shutil.copy(videos["avi"], tmp_path / f"{k}.avi")) for k in range(12)]
    index = VideoIndex(tmp_path / "index")
    clips = iterate_clips(paths, 4, attrgetter("indices"), workers=2, ahead=1, index=index)
    first = next(clips)
    time.sleep(1.5)
    known = sum(index.known_times(path) is not None for path in paths)
    # the taken result; for each worker one that waits, one in transfer, one in work
    assert first == (0, 13, 26, 39) and 1 <= known <= 7
    assert [first, *clips] == list(iterate_clips(paths, 4, attrgetter("indices"))) and all(
        index.known_times(path) for path in paths
    )


WORKER_SCRIPT = """
import itertools, sys, time
from cgsaliency.data.parallel import ordered_results

if __name__ == "__main__":
    results = ordered_results(itertools.count, [0, 1], workers=2, ahead=2)
    next(results)
    import multiprocessing
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "work.py").write_text(WORKER_SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "work.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    workers = [int(process_id) for process_id in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(psutil.pid_exists(process_id) for process_id in workers)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(
        [psutil.Process(process_id) for process_id in workers if psutil.pid_exists(process_id)], timeout=20
    )
    assert not alive


@pytest.mark.slow
def test_real_clips_are_read_the_same_by_workers_with_an_index(shared_data, tmp_path):
    paths = (
        sorted((shared_data / "msvd/videos").glob("*.avi"))[:4] + sorted((shared_data / "ucf101").rglob("*.mp4"))[:2]
    )
    index = VideoIndex(tmp_path)
    assert not index.build(paths, INDEXED, workers=2, progress=False)
    for path, clip in zip(paths, iterate_clips(paths, 8, workers=2, index=index), strict=True):
        plain = read_frames(path, 8)
        assert (clip.times, clip.indices, clip.total_frames, clip.width, clip.height) == (
            plain.times,
            plain.indices,
            plain.total_frames,
            plain.width,
            plain.height,
        )
        assert [frame.tobytes() for frame in clip.frames] == [frame.tobytes() for frame in plain.frames]
        assert (
            index.fps_and_duration(path) == fps_and_duration(path)
            and index.frame_times(path) == frame_timestamps(path)
            and index.frame_size(path) == video_size(path)
        )
