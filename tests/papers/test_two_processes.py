"""Paper notebooks in two processes, started by the Snakefile: the tables are those of one process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from cgsaliency.core.io import read_json
from cgsaliency.reproduce.scale_config import load_scale

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCALE = """
all: {seed: 0, threads: 1, split_scheme: karpathy, on_error: raise, note: "few items: the numbers mean nothing"}
synth_flickr30k: {train: 16, val: 4, test: 8}
synth_ucf101_thumos14: {ucf101: {train_groups: 5, test_groups: 1, clips: 1}, thumos14: {val: 2, test: 2}}
cgvs/backbone:
  extractor: {network: toynet, rows: 8, columns: 8}
  training: {epochs: 1, batch_size: 32, learning_rate: 0.003}
  crop_size: 64
  min_count: 1
cgvs/captioner:
  model_kwargs: {embed_dim: 16, word_dim: 8, hidden_dim: 16, max_words: 24, dropout: 0.0}
  min_count: 1
  use_unk: true
  scan_order: snake
  single_descriptor_prob: 0.0
  training: {epochs: 4, batch_size: 8, learning_rate: 0.02, max_grad_norm: 5.0}
  validation_metric: loss
  num_pointing_images: 2
  beam_size: 1
cgvs/table1: {first_index: 0, num_examples: 1, num_mean_images: 2}
"""
RECORD_RANKS = """
import os, sys
if "ipykernel_launcher" in sys.orig_argv:
    with open(os.environ["RANKS_FILE"], "a") as file:
        print(os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"), file=file)
"""
MODELS = {"ebr/frame_cnn", "ebr/action_lstm", "ebr/table1"}  # with the settings of scale smoke


class Project:
    "A folder with the project's code and custom scales."

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "scales").mkdir(parents=True)
        for name in ("Snakefile", "settings.ini", "cgsaliency", "nbs", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)
        smoke = load_scale("smoke")
        settings = yaml.safe_load(SCALE) | {name: smoke[name] for name in sorted(MODELS)}
        for scale, processes in (("one", 1), ("two", 2), ("shared", 2)):
            settings["all"]["processes"] = processes
            (folder / f"scales/{scale}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "sitecustomize.py").write_text(RECORD_RANKS)

    def make(self, scale: str, *targets: str) -> list[str]:
        "Make files by the Snakefile; return rank and number of processes of each notebook that ran, sorted."
        ranks_file = self.folder / "ranks"
        ranks_file.write_text("")
        environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "RANKS_FILE": str(ranks_file),
            "OMP_NUM_THREADS": "1",
        }
        options = ["--nolock", "--cores", "2", "--rerun-triggers", "mtime", "--quiet", "host"]
        output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        command = [
            sys.executable,
            "-m",
            "snakemake",
            *options,
            "--config",
            f"scale=scales/{scale}.yaml",
            "--",
            *targets,
        ]
        completed = subprocess.run(command, cwd=self.folder, env=environment, **output)
        assert completed.returncode == 0, completed.stdout[-4000:]
        return sorted(ranks_file.read_text().splitlines())

    def copy(self, scale: str, *names: str) -> None:
        "Copy artifacts of scale one to another scale."
        for name in names:
            source, target = (self.folder / f"artifacts/{source_scale}/{name}" for source_scale in ("one", scale))
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=shutil.copy2)
            else:
                shutil.copy2(source, target)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    "A project in which one process has run everything."
    project = Project(tmp_path_factory.mktemp("two_processes") / "project")
    assert set(project.make("one", "reports/one/cgvs/table1.ipynb", "reports/one/ebr/table1.ipynb")) == {"0 1"}
    return project


def read_files(folder: Path) -> dict[Path, bytes]:
    "Return the content of each file of the folder."
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tables_are_the_same_with_two_processes(project):
    project.copy("shared", "data", "train_data", "cgvs", "ebr", "synth_flickr30k.json", "synth_ucf101_thumos14.json")
    ranks = project.make("shared", "reports/shared/cgvs/table1.ipynb", "reports/shared/ebr/table1.ipynb")
    assert ranks == ["0 2", "0 2", "1 2", "1 2"]
    for table in ("cgvs/table1", "ebr/table1"):
        single, double = (project.folder / f"reports/{scale}/{table}" for scale in ("one", "shared"))
        for suffix in (".csv", ".claims.csv"):  # exactly
            assert double.with_suffix(suffix).read_bytes() == single.with_suffix(suffix).read_bytes(), (
                f"{table}{suffix}"
            )
        rows = pd.read_parquet(single.with_suffix(".rows.parquet"))
        pd.testing.assert_frame_equal(pd.read_parquet(double.with_suffix(".rows.parquet")), rows, check_exact=True)
        assert len(rows) > 20


def test_data_are_written_once(project):
    assert project.make("two", "artifacts/two/synth_flickr30k.json") == ["0 2", "1 2"]
    written = read_files(project.folder / "artifacts/two/data")
    single = read_files(project.folder / "artifacts/one/data")
    assert written == {path: single[path] for path in single if "flickr30k" in path.parts[0]} and len(written) > 28


def test_training_in_two_processes_equals_one(project):
    project.make("two", "artifacts/two/synth_flickr30k.json")
    project.copy("two", "train_data", "cgvs/backbone", "cgvs/features", "cgvs/extractor.json", "cgvs/backbone.json")
    (project.folder / "artifacts/two/cgvs/backbone.json").touch()  # newer than the data, so that it is not made again
    assert project.make("two", "artifacts/two/cgvs/captioner.json") == ["0 2", "1 2"]
    folders = [project.folder / f"artifacts/{scale}/cgvs/captioner" for scale in ("one", "two")]
    single, double = (read_json(folder / "history.json") for folder in folders)
    assert double["settings"].pop("num_processes") == 2 and double["settings"] == single["settings"]
    # Tolerance 1%: each process averages over the words of its half of a batch, and both halves have the same weight,
    # whatever their numbers of words. Order and initial weights are the same.
    for expected_epoch, epoch in zip(single["epochs"], double["epochs"], strict=True):
        assert epoch["loss"] == pytest.approx(expected_epoch["loss"], rel=0.01)
        assert epoch["score"] == pytest.approx(expected_epoch["score"], rel=0.01)
    assert double["epochs"][-1]["loss"] < 0.98 * double["epochs"][0]["loss"]
    single, double = (load_file(folder / "best.safetensors") for folder in folders)
    assert {name: value.shape for name, value in single.items()} == {
        name: value.shape for name, value in double.items()
    }


def print_gpu_of_process() -> None:
    "Call init_processes on a simulated machine with two GPUs, and print which device it sets."
    import torch
    from accelerate import PartialState

    from cgsaliency.core.distributed import init_processes
    from cgsaliency.core.runtime import default_device

    recorded = {}
    torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 2)
    torch.cuda.set_device = lambda device: recorded.update(device=str(device))
    torch.distributed.init_process_group = lambda backend, **options: recorded.update(backend=backend, **options)
    torch.distributed.get_world_size, torch.distributed.get_rank = (lambda: 2), (lambda: int(os.environ["RANK"]))
    PartialState.set_device.__globals__["check_cuda_p2p_ib_support"] = lambda: True  # reads names from the driver
    init_processes()
    print(recorded["device"], recorded["backend"], recorded["timeout"].days, PartialState().device, default_device())


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_uses_the_gpu_of_its_local_rank(rank):
    rank_variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = {name: value for name, value in os.environ.items() if name != "CGSALIENCY_DEVICE"} | rank_variables
    completed = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=120)
    assert completed.stdout.split() == [f"cuda:{rank}", "nccl", "7", f"cuda:{rank}", "cuda"], completed.stderr[-2000:]


if __name__ == "__main__":
    print_gpu_of_process()
