"""Rows of an evaluation that is killed and resumed equal those of an undisturbed one; no complete chunk is made twice,
and two processes write the same files as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from cgsaliency.core.distributed import barrier, gather_rows, init_processes, shard
from cgsaliency.evaluate.resumable import resumable_rows
from process_helpers import kill_at_each_rename, rename_kill_points, script_environment

pytestmark = pytest.mark.slow

LAUNCHER = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
    "--main_process_port",
    "0",
]
# four chunks, the last of two
KEY, ITEMS, CHUNK_SIZE = {"steps": 32, "weights": "a digest"}, [f"image {i}" for i in range(11)], 3
CHUNKS = [ITEMS[k : k + CHUNK_SIZE] for k in range(0, len(ITEMS), CHUNK_SIZE)]
RENAMES = 1 + len(CHUNKS)  # of the key, and of each chunk


def evaluate_items(items: list[str]) -> list[dict]:
    "Make two rows of each item, but none for the second chunk; processes share the items."
    rows = [
        {
            "record": item,
            "part": index,
            "share": 1 / (3 + len(item) + index),
            "distance": float("inf") if index else 0.0,
        }
        for item in shard(items)
        if item not in CHUNKS[1]
        for index in range(2)
    ]
    return gather_rows(rows)


def evaluate(folder: Path, log: Path) -> None:
    "Write the items of each chunk that is made into the log, and the rows beside the log."

    def make(items):
        with log.open("a") as file:
            file.write(json.dumps(items) + "\n")
        return evaluate_items(items)

    resumable_rows(folder, KEY, ITEMS, make, CHUNK_SIZE).to_parquet(log.with_suffix(".parquet"))


def made_chunks(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluate_in_two_processes(folder: Path) -> None:
    "Evaluate in a launched process."
    init_processes()
    evaluate(folder / "two", folder / f"two.{os.environ['RANK']}.log")
    barrier()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    subprocess.run([sys.executable, __file__, "kills", folder], check=True, timeout=300, env=script_environment())
    completed = subprocess.run(
        [*LAUNCHER, "--num_processes", "2", "--multi_gpu", __file__, "two", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=script_environment(OMP_NUM_THREADS="1"),
    )
    assert completed.returncode == 0, completed.stderr[-3000:]
    return folder


@pytest.mark.parametrize("moment", rename_kill_points(RENAMES))
def test_killed_and_resumed_equals_undisturbed(run_folder, moment):
    first, second = (made_chunks(run_folder / f"{moment}.{run}") for run in ("first", "second"))
    index, after = moment.split("-")
    # chunks that were complete before the kill; the first rename is that of the key
    num_done = max(int(index) - (after == "False"), 0)
    assert second == CHUNKS[num_done:], "a chunk was made twice, or left out"
    assert first == CHUNKS[: int(index)]
    resumed = {name: content for name, content in read_files(run_folder / moment).items() if ".part" not in name}
    assert resumed == read_files(run_folder / "undisturbed")
    # exactly
    pd.testing.assert_frame_equal(
        pd.read_parquet(run_folder / f"{moment}.parquet"), pd.DataFrame(evaluate_items(ITEMS))
    )


def test_two_processes_write_the_files_of_one(run_folder):
    first, second = made_chunks(run_folder / "two.0.log"), made_chunks(run_folder / "two.1.log")
    assert sorted(first + second) == CHUNKS and len(first) == len(second) == 2, "the chunks were not shared"
    assert read_files(run_folder / "two") == read_files(run_folder / "undisturbed")
    for rank in (0, 1):
        pd.testing.assert_frame_equal(
            pd.read_parquet(run_folder / f"two.{rank}.parquet"), pd.DataFrame(evaluate_items(ITEMS))
        )


if __name__ == "__main__":
    if sys.argv[1] == "kills":
        kill_at_each_rename(Path(sys.argv[2]), evaluate, RENAMES)
    else:
        evaluate_in_two_processes(Path(sys.argv[2]))
