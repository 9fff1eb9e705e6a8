"""A data set described and explained by two processes that a launcher starts: the same features, and the same table, as by one."""
import os, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from cgsaliency.core.processes import begin_together, gathered, rank_and_size, shared
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.text import Vocabulary
from cgsaliency.evaluate.pointing import pointing_rows
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.models.descriptors import describer_of
from cgsaliency.models.features import FeatureStore
from cgsaliency.models.s2vt import S2VT
from cgsaliency.reproduce.tables import save_table

LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def explain_all(data: Path, out: Path) -> None:
    "Descriptors of the training pictures, and who points where, as a table; each process leaves what it got."
    begin_together()
    torch.set_num_threads(1)
    rank, size = rank_and_size()
    found = load_flickr30k(data, "train", "karpathy")
    torch.manual_seed(0)
    describer = describer_of({"network": "toynet", "rows": 4, "columns": 4})
    by_id = {record.id: record for record in found.records}
    store = FeatureStore(out / "features", describer.key(), list(by_id), (16, describer.backbone.channels), block=2).extract(lambda ids: describer([by_id[id] for id in ids]), progress=False)
    captioner = S2VT(Vocabulary.of([sentence.tokens for record in found.records for sentence in record.sentences]), 96, embedding=16, words=8, hidden=16).eval()
    asked = []
    def explain(record, number):
        asked.append((record.id, number))
        return cgvs(captioner, describer.of(record, store.batch([record.id])[0]), record.sentences[number].tokens)
    rows = pointing_rows(explain, found.records)
    save_table(rows.groupby("categories").hit.mean().reset_index(), rows, out, f"table.{rank}")
    (out / f"asked.{rank}").write_text(f"{len(asked)} {len(set(gathered(asked)))} {size}")
    if out.name == "failing" and rank == 1: raise SystemExit(3)


def launched(processes: int, data: Path, out: Path) -> subprocess.CompletedProcess:
    out.mkdir()
    return subprocess.run([*LAUNCHER, "--num_processes", str(processes), *(["--multi_gpu"] if processes > 1 else []), __file__, str(data), str(out)], capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def both(toybox, tmp_path_factory) -> dict[int, Path]:
    folders = {processes: tmp_path_factory.mktemp("processes") / str(processes) for processes in (1, 2)}
    for processes, out in folders.items():
        done = launched(processes, toybox, out)
        assert done.returncode == 0, done.stderr[-3000:]
    return folders


def test_two_processes_make_the_table_of_one(both):
    alone = (both[1] / "table.0.rows.parquet", both[1] / "table.0.csv")
    for rank in (0, 1):      # tolerance: none. Each record is explained by one process, as it would be alone
        rows = pd.read_parquet(both[2] / f"table.{rank}.rows.parquet")
        pd.testing.assert_frame_equal(rows, pd.read_parquet(alone[0]))
        assert (both[2] / f"table.{rank}.csv").read_bytes() == alone[1].read_bytes() and len(rows) > 20


def test_they_share_the_work(both):
    (all_of_them, _, size), first, second = ((int(number) for number in (both[count] / f"asked.{rank}").read_text().split()) for count, rank in ((1, 0), (2, 0), (2, 1)))
    mine, together, two = first
    others = next(second)
    assert (size, two, together) == (1, 2, all_of_them) and mine + others == all_of_them and min(mine, others) > 0


def test_features_are_the_same_files(both):
    alone, together = ({path.relative_to(both[count] / "features"): path.read_bytes() for path in (both[count] / "features").rglob("*") if path.is_file() and path.name != ".lock"} for count in (1, 2))
    assert alone == together and len(alone) > 3


def test_one_that_fails_stops_the_other(toybox, tmp_path):
    done = launched(2, toybox, tmp_path / "failing")
    assert done.returncode != 0


def test_one_process_needs_no_launcher():
    assert rank_and_size() == (0, 1) and list(shared(range(3))) == [0, 1, 2] and gathered([1]) == [1]


if __name__ == "__main__": explain_all(Path(sys.argv[1]), Path(sys.argv[2]))
