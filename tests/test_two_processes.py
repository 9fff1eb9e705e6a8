"""Whole paper notebooks under two processes, started by the Snakefile: the tables are those of one process."""
import os, shutil, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from cgsaliency.core.artefacts import read_json

ROOT = Path(__file__).resolve().parent.parent
SCALE = """
all: {seed: 0, threads: 1, family: karpathy, broken: refuse, note: "a handful of items, these numbers mean nothing"}
toybox: {train: 16, val: 4, test: 8}
toyacts: {ucf101: {train_groups: 5, test_groups: 1, clips: 1}, thumos14: {val: 2, test: 2}}
cgvs/backbone:
  describer: {network: toynet, rows: 8, columns: 8}
  training: {epochs: 1, batch_size: 32, learning_rate: 0.003}
  window: 64
  min_count: 1
cgvs/captioner:
  sizes: {embedding: 16, words: 8, hidden: 16, max_words: 24, dropout: 0.0}
  min_count: 1
  unknown: true
  scan: snake
  single: 0.0
  training: {epochs: 4, batch_size: 8, learning_rate: 0.02, clip: 5.0}
  validate: loss
  beam: 1
cgvs/table1: {shown: 1}
"""
RANKS = """
import os, sys
if "ipykernel_launcher" in sys.orig_argv:
    with open(os.environ["RANKS_SEEN"], "a") as file:
        print(os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"), file=file)
"""
MODELS = {"ebr/frames", "ebr/recogniser", "ebr/table1"}      # as scale smoke has them


class Project:
    "A folder with the project's code and scales of its own."

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "nbs/papers/scales").mkdir(parents=True)
        for name in ("Snakefile", "settings.ini", "cgsaliency", "tools", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)
        for path in (ROOT / "nbs/papers").iterdir():
            if path.name != "scales":
                (folder / "nbs/papers" / path.name).symlink_to(path)
        smoke = yaml.safe_load((ROOT / "nbs/papers/scales/smoke.yaml").read_text())
        settings = yaml.safe_load(SCALE) | {name: smoke[name] for name in sorted(MODELS)}
        for scale, processes in (("one", 1), ("two", 2), ("shared", 2)):
            settings["all"]["processes"] = processes
            (folder / f"nbs/papers/scales/{scale}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "sitecustomize.py").write_text(RANKS)

    def make(self, scale: str, *targets: str) -> list[str]:
        "Make the files by the Snakefile; returns rank and number of processes of each notebook that ran, sorted."
        seen = self.folder / "ranks"
        seen.write_text("")
        environment = os.environ | {"PYTHONPATH": str(self.folder), "RANKS_SEEN": str(seen), "OMP_NUM_THREADS": "1"}
        options = ["--nolock", "--cores", "2", "--rerun-triggers", "mtime", "--quiet", "host"]
        piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        words = [sys.executable, "-m", "snakemake", *options, "--config", f"scale={scale}", "--", *targets]
        done = subprocess.run(words, cwd=self.folder, env=environment, **piped)
        assert done.returncode == 0, done.stdout[-4000:]
        return sorted(seen.read_text().splitlines())

    def copy(self, scale: str, *names: str) -> None:
        "Give the scale what scale one has made."
        for name in names:
            source, target = (self.folder / f"artifacts/{of}/{name}" for of in ("one", scale))
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


def files(folder: Path) -> dict[Path, bytes]:
    "Return the content of each file of the folder."
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_explaining_notebooks_leave_the_same_tables(project):
    project.copy("shared", "data", "cgvs", "ebr", "toybox.json", "toyacts.json")
    ran = project.make("shared", "reports/shared/cgvs/table1.ipynb", "reports/shared/ebr/table1.ipynb")
    assert ran == ["0 2", "0 2", "1 2", "1 2"]
    for table in ("cgvs/table1", "ebr/table1"):
        one, two = (project.folder / f"reports/{scale}/{table}" for scale in ("one", "shared"))
        for ending in (".csv", ".claims.csv"):      # tolerance: none
            assert two.with_suffix(ending).read_bytes() == one.with_suffix(ending).read_bytes(), f"{table}{ending}"
        rows = pd.read_parquet(one.with_suffix(".rows.parquet"))
        pd.testing.assert_frame_equal(pd.read_parquet(two.with_suffix(".rows.parquet")), rows, check_exact=True)
        assert len(rows) > 20


def test_data_are_drawn_once(project):
    assert project.make("two", "artifacts/two/toybox.json") == ["0 2", "1 2"]
    drawn = files(project.folder / "artifacts/two/data")
    one = files(project.folder / "artifacts/one/data")
    assert drawn == {path: one[path] for path in one if "flickr30k" in path.parts[0]} and len(drawn) > 28


def test_a_training_notebook_trains_as_one_process_does(project):
    project.make("two", "artifacts/two/toybox.json")
    project.copy("two", "cgvs/backbone", "cgvs/features", "cgvs/describer.json", "cgvs/backbone.json")
    (project.folder / "artifacts/two/cgvs/backbone.json").touch()      # newer than the data, so it is not made again
    assert project.make("two", "artifacts/two/cgvs/captioner.json") == ["0 2", "1 2"]
    folders = [project.folder / f"artifacts/{scale}/cgvs/captioner" for scale in ("one", "two")]
    one, two = (read_json(folder / "history.json") for folder in folders)
    assert two["settings"].pop("processes") == 2 and two["settings"] == one["settings"]
    # Tolerance 1%: a process takes the mean over the words of its half of a batch, and halves count alike,
    # however many words each has. Everything else, order and first weights, is the same.
    for before, after in zip(one["epochs"], two["epochs"], strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=0.01)
        assert after["score"] == pytest.approx(before["score"], rel=0.01)
    assert two["epochs"][-1]["loss"] < 0.98 * two["epochs"][0]["loss"]
    one, two = (load_file(folder / "best.safetensors") for folder in folders)
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}


def takes_its_gpu() -> None:
    "What begin_together does on a machine with two GPUs, played by functions that note how they are called."
    import torch
    from accelerate import PartialState

    from cgsaliency.core.processes import begin_together
    from cgsaliency.core.run import best_device

    called = {}
    torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 2)
    torch.cuda.set_device = lambda device: called.update(device=str(device))
    torch.distributed.init_process_group = lambda backend, **options: called.update(backend=backend, **options)
    torch.distributed.get_world_size, torch.distributed.get_rank = (lambda: 2), (lambda: int(os.environ["RANK"]))
    PartialState.set_device.__globals__["check_cuda_p2p_ib_support"] = lambda: True      # asks the driver for names
    begin_together()
    print(called["device"], called["backend"], called["timeout"].days, PartialState().device, best_device())


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_takes_the_gpu_of_its_number(rank):
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = {name: value for name, value in os.environ.items() if name != "CGSALIENCY_DEVICE"} | own
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [f"cuda:{rank}", "nccl", "7", f"cuda:{rank}", "cuda"], done.stderr[-2000:]


if __name__ == "__main__":
    takes_its_gpu()
