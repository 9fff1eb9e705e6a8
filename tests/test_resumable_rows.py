"""Rows of an evaluation that was killed at any moment are those of one that was not, nothing whole is made twice, and two processes leave the files of one."""
import json, os, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest
from dying import kill_at_each_rename, rename_moments

from cgsaliency.core.processes import begin_together, gathered, shared, wait_for_all
from cgsaliency.evaluate.resumable import resumable_rows

LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
KEY, ITEMS, CHUNK = {"steps": 32, "weights": "a digest"}, [f"image {i}" for i in range(11)], 3      # four chunks, the last of two
CHUNKS = [ITEMS[k:k + CHUNK] for k in range(0, len(ITEMS), CHUNK)]
RENAMES = 1 + len(CHUNKS)       # of the key, and of each chunk


def judged(items: list[str]) -> list[dict]:
    "Two rows of each item but of those of the second chunk, which has nothing to judge; by a function that would share its items."
    rows = [{"record": item, "part": part, "share": 1 / (3 + len(item) + part), "distance": float("inf") if part else 0.0} for item in shared(items) if item not in CHUNKS[1] for part in range(2)]
    return gathered(rows)


def judge(folder: Path, log: Path) -> None:
    "Notes in the log which chunks are made, and leaves the rows beside it."
    def make(items):
        with log.open("a") as file: file.write(json.dumps(items) + "\n")
        return judged(items)
    resumable_rows(folder, KEY, ITEMS, make, CHUNK).to_parquet(log.with_suffix(".parquet"))


def made(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_two_processes(folder: Path) -> None:
    "Judges in a process that a launcher started, and leaves the rows that it got."
    begin_together()
    judge(folder / "two", folder / f"two.{os.environ['RANK']}.log")
    wait_for_all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    subprocess.run([sys.executable, __file__, "kills", folder], check=True, timeout=300)
    done = subprocess.run([*LAUNCHER, "--num_processes", "2", "--multi_gpu", __file__, "two", str(folder)], capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("moment", rename_moments(RENAMES))
def test_killed_and_taken_up_equals_undisturbed(runs, moment):
    first, second = (made(runs / f"{moment}.{run}") for run in ("first", "second"))
    which, after = moment.split("-")
    whole = max(int(which) - (after == "False"), 0)                    # chunks whose file was there when it was killed; the first rename is that of the key
    assert second == CHUNKS[whole:], "a chunk was made twice, or left out"
    assert first == CHUNKS[:int(which)]
    left = {name: content for name, content in files(runs / moment).items() if ".part" not in name}
    assert left == files(runs / "undisturbed")
    pd.testing.assert_frame_equal(pd.read_parquet(runs / f"{moment}.parquet"), pd.DataFrame(judged(ITEMS)))     # tolerance: none


def test_two_processes_leave_the_files_of_one(runs):
    one, other = made(runs / "two.0.log"), made(runs / "two.1.log")
    assert sorted(one + other) == CHUNKS and len(one) == len(other) == 2, "the chunks were not shared"
    assert files(runs / "two") == files(runs / "undisturbed")
    for rank in (0, 1): pd.testing.assert_frame_equal(pd.read_parquet(runs / f"two.{rank}.parquet"), pd.DataFrame(judged(ITEMS)))


if __name__ == "__main__":
    kills = lambda folder: kill_at_each_rename(folder, judge, RENAMES)
    {"kills": kills, "two": in_two_processes}[sys.argv[1]](Path(sys.argv[2]))
