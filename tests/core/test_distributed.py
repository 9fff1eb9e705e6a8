"""A data set is described and explained by two launched processes: features and table are the same as with one."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from cgsaliency.core.distributed import gather_rows, init_processes, rank_and_world_size, shard
from cgsaliency.data.flickr30k import load_flickr30k
from cgsaliency.data.vocabulary import Vocabulary
from cgsaliency.evaluate.pointing_game import pointing_rows
from cgsaliency.explain.cgvs import cgvs
from cgsaliency.features.cache import FeatureCache
from cgsaliency.features.extractor import make_extractor
from cgsaliency.models.s2vt import S2VT
from cgsaliency.reproduce.tables import save_table

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


def explain_dataset(data: Path, out: Path) -> None:
    "Extract descriptors of the training images and write a table of the pointing game; each process writes its own."
    init_processes()
    torch.set_num_threads(1)
    rank, size = rank_and_world_size()
    dataset = load_flickr30k(data, "train", "karpathy")
    torch.manual_seed(0)
    extractor = make_extractor({"network": "toynet", "rows": 4, "columns": 4})
    by_id = {sample.id: sample for sample in dataset.samples}
    cache = FeatureCache(
        out / "features", extractor.key(), list(by_id), (16, extractor.backbone.channels), chunk_size=2
    ).extract(lambda ids: extractor([by_id[id] for id in ids]), progress=False)
    captioner = S2VT(
        Vocabulary.from_captions([caption.tokens for sample in dataset.samples for caption in sample.captions]),
        96,
        embed_dim=16,
        word_dim=8,
        hidden_dim=16,
    ).eval()
    explained_captions = []

    def explain(sample, caption_index):
        explained_captions.append((sample.id, caption_index))
        return cgvs(
            captioner,
            extractor.to_descriptors(sample, cache.batch([sample.id])[0]),
            sample.captions[caption_index].tokens,
        )

    rows = pointing_rows(explain, dataset.samples)
    save_table(rows.groupby("categories").hit.mean().reset_index(), rows, out, f"table.{rank}")
    (out / f"explained.{rank}").write_text(
        f"{len(explained_captions)} {len(set(gather_rows(explained_captions)))} {size}"
    )
    if out.name == "failing" and rank == 1:
        raise SystemExit(3)


def launch(num_processes: int, data: Path, out: Path) -> subprocess.CompletedProcess:
    out.mkdir()
    return subprocess.run(
        [
            *LAUNCHER,
            "--num_processes",
            str(num_processes),
            *(["--multi_gpu"] if num_processes > 1 else []),
            __file__,
            str(data),
            str(out),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def output_folders(toybox, tmp_path_factory) -> dict[int, Path]:
    folders = {num_processes: tmp_path_factory.mktemp("processes") / str(num_processes) for num_processes in (1, 2)}
    for num_processes, out in folders.items():
        completed = launch(num_processes, toybox, out)
        assert completed.returncode == 0, completed.stderr[-3000:]
    return folders


@pytest.mark.slow
def test_two_processes_write_the_same_table_as_one(output_folders):
    single = (output_folders[1] / "table.0.rows.parquet", output_folders[1] / "table.0.csv")
    for rank in (0, 1):  # exactly: each sample is explained by one process
        rows = pd.read_parquet(output_folders[2] / f"table.{rank}.rows.parquet")
        pd.testing.assert_frame_equal(rows, pd.read_parquet(single[0]))
        assert (output_folders[2] / f"table.{rank}.csv").read_bytes() == single[1].read_bytes() and len(rows) > 20


@pytest.mark.slow
def test_two_processes_share_the_samples(output_folders):
    single, first, second = (
        [int(number) for number in (output_folders[count] / f"explained.{rank}").read_text().split()]
        for count, rank in ((1, 0), (2, 0), (2, 1))
    )
    num_captions, _, single_size = single
    num_first, num_gathered, size = first
    num_second = second[0]
    assert (single_size, size, num_gathered) == (1, 2, num_captions)
    assert num_first + num_second == num_captions and min(num_first, num_second) > 0


@pytest.mark.slow
def test_two_processes_write_the_same_feature_files(output_folders):
    single, double = (
        {
            path.relative_to(output_folders[count] / "features"): path.read_bytes()
            for path in (output_folders[count] / "features").rglob("*")
            if path.is_file() and path.name != ".lock"
        }
        for count in (1, 2)
    )
    assert single == double and len(single) > 3


@pytest.mark.slow
def test_a_failing_process_stops_the_other(toybox, tmp_path):
    completed = launch(2, toybox, tmp_path / "failing")
    assert completed.returncode != 0


def test_one_process_needs_no_launcher():
    assert rank_and_world_size() == (0, 1) and list(shard(range(3))) == [0, 1, 2] and gather_rows([1]) == [1]


if __name__ == "__main__":
    explain_dataset(Path(sys.argv[1]), Path(sys.argv[2]))
