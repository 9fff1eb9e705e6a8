"""Scale rehearsal is scale paper with smaller counts; plans of resources; GPUs of each notebook."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cgsaliency.reproduce.rehearsal import changed_settings, flatten_settings
from cgsaliency.reproduce.scale_config import load_plan, load_scale, merge_settings, notebook_of, scale_path

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "nbs/papers"
PAPER, REHEARSAL = load_scale("paper"), load_scale("rehearsal")

# Settings that a rehearsal may change: how many items are used, or which. Sizes, types, frames, regions, batches and
# rates are not among them.
COUNTS = {
    "num_random_splits",
    "epochs",
    "max_steps",
    "num_examples",
    "examples",
    "num_evaluated",
    "num_pointing_images",
    "num_images",
    "num_videos",
    "num_pixel_evaluated",
    "num_levels",
    "num_mean_images",
    "num_randomized",
    "seeds",
    "max_train",
    "image_index",
    "video_index",
    "first_index",
    "clip_indices",
    "num_captions",
    "classes",
}
MACHINE = {"cores", "num_workers"}  # what a machine may have less of
EVERYWHERE = {"threads", "note"}  # of section all: cores, and a note on the results


def read_overrides() -> dict[str, dict]:
    "Return the content of the rehearsal's file."
    return yaml.safe_load(scale_path("rehearsal").read_text())


def test_the_rehearsal_extends_scale_paper():
    assert read_overrides()["extends"] == "paper"
    assert REHEARSAL.keys() == PAPER.keys() and len(PAPER) > 40


def test_only_counts_are_overridden():
    for section, settings in read_overrides().items():
        if section in ("extends", "all"):
            continue
        assert section in PAPER, section
        other_names = [name for name in flatten_settings(settings) if name.rpartition(".")[2] not in COUNTS | MACHINE]
        assert not other_names, f"{section}: {other_names} are no counts"
    assert set(read_overrides()["all"]) == EVERYWHERE


def test_all_settings_exist_and_only_counts_are_smaller():
    "The rehearsal has each setting of scale paper with the same type; only counts differ, and they are smaller."
    for section, settings in PAPER.items():
        paper, rehearsal = flatten_settings(settings), flatten_settings(REHEARSAL[section])
        assert not paper.keys() - rehearsal.keys(), section
        assert {name.rpartition(".")[2] for name in rehearsal.keys() - paper.keys()} <= {"max_steps"}, section
        for name, value in paper.items():
            if section == "all" and name in EVERYWHERE:
                continue
            other, location = rehearsal[name], f"{section}: {name}"
            assert type(other) is type(value), location
            if name.rpartition(".")[2] not in COUNTS | MACHINE or value in (None, {}):
                assert other == value, location
            elif isinstance(value, list):
                assert len(other) <= len(value), location
            else:
                assert other <= value, location


def test_every_training_has_few_steps_and_two_seeds():
    for section, settings in REHEARSAL.items():
        flat = flatten_settings(settings)
        trainings = [name.rpartition(".")[0] for name in flat if name.endswith("training.batch_size")]
        for training in trainings:
            assert (flat[f"{training}.epochs"], flat[f"{training}.max_steps"]) == (1, 2), f"{section}: {training}"
        if "seeds" in settings:
            assert len(settings["seeds"]) == 2, section


def test_every_override_changes_a_setting():
    table = changed_settings(PAPER, REHEARSAL)
    overrides = {section: settings for section, settings in read_overrides().items() if section != "extends"}
    overridden = {(section, name) for section, settings in overrides.items() for name in flatten_settings(settings)}
    assert overridden == set(zip(table.notebook, table.setting))


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"cgvs/captioner": {"model_kwargs": {"hidden_dim": 8}}}, "model_kwargs.hidden_dim"),
        ({"ebr/table3": {"num_frames": 4}}, "num_frames"),
        ({"aoa/region_encoder": {"network": "toyvgg"}}, "network"),
    ],
)
def test_changed_sizes_are_detected(change, expected):
    "The tests above can fail."
    table = changed_settings(PAPER, merge_settings(REHEARSAL, change))
    changed = table[table.notebook != "all"].setting
    other_names = [name for name in changed if name.rpartition(".")[2] not in COUNTS | MACHINE]
    assert other_names == [expected]


# Plans


def planned_resources(name: str) -> dict[str, dict]:
    plan = load_plan(name)
    return {section: {**plan["all"], **plan.get(section, {})} for section in PAPER if section != "all"}


@pytest.mark.parametrize("name, max_memory", [("paper", 64), ("rehearsal", 16)])
def test_plans_name_notebooks_and_request_available_resources(name, max_memory):
    plan = load_plan(name)
    notebooks = {path.relative_to(PAPERS).with_suffix("").as_posix() for path in PAPERS.rglob("*.ipynb")}
    assert {notebook_of(section) for section in plan.keys() - {"all"}} <= notebooks
    for section, resources in planned_resources(name).items():
        assert resources.keys() == {"gpu", "memory_gib", "disk_gb", "hours"}, section
        assert all(isinstance(value, int) and value >= 0 for value in resources.values()), section
        assert resources["memory_gib"] <= max_memory and resources["gpu"] <= 1, section


def test_training_notebooks_request_a_gpu():
    plan = planned_resources("paper")
    settings = {section: flatten_settings(section_settings) for section, section_settings in PAPER.items()}
    training = [
        section
        for section, section_settings in settings.items()
        if any(name.endswith("batch_size") for name in section_settings)
    ]
    assert len(training) > 10 and all(plan[section]["gpu"] == 1 for section in training)
    assert plan["method_comparison"]["gpu"] == 1 and plan["ebr/table1"]["gpu"] == 1


def test_the_plan_of_the_rehearsal_covers_its_measurements():
    measured = pd.read_csv(ROOT / "benchmarks/results/rehearsal.csv").set_index("name").value
    for section, resources in planned_resources("rehearsal").items():
        assert measured[f"rehearsal: {section}, largest memory"] <= resources["memory_gib"], section
        assert measured[f"rehearsal: {section}"] <= 3600 * resources["hours"], section
    assert measured["rehearsal: largest memory of a notebook"] <= 16


# GPUs and memory of a machine


def dry_run_resources(folder: Path, *machine_limits: str) -> dict[str, dict[str, str]]:
    "Return the resources that each rule of scale paper requests under these limits."
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--nolock",
        "--cores",
        "2",
        "--dry-run",
        "--resources",
        *machine_limits,
        "--config",
        "scale=paper",
        f"data={folder}",
        f"reports={folder}/r",
        f"artifacts={folder}/a",
    ]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr[-2000:]
    output = completed.stdout + completed.stderr
    blocks = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", output, re.MULTILINE | re.DOTALL)
    lines = {name: "".join(re.findall(r"resources: (.*)", block)) for name, block in blocks}
    return {
        name: dict(resource.strip().split("=") for resource in line.split(",") if resource)
        for name, line in lines.items()
    }


@pytest.mark.slow
def test_notebooks_that_request_a_gpu_run_without_one(tmp_path):
    "Snakemake limits requests to what the machine has, so that no job waits forever."
    by_rule = dry_run_resources(tmp_path, "gpu=0", "mem_mb=8192")
    notebooks = {name: resources for name, resources in by_rule.items() if name not in ("all", "index")}
    assert len(notebooks) > 40 and all(
        resources["gpu"] == "0" and int(resources["mem_mb"]) <= 8192 for resources in notebooks.values()
    )
    resources = dry_run_resources(tmp_path, "gpu=2", "mem_mb=131072")["cgvs_captioner"]
    assert (
        resources["gpu"] == "1"
        and int(resources["mem_mb"]) == 1024 * planned_resources("paper")["cgvs/captioner"]["memory_gib"]
    )


def machine_limits(*arguments: str, **environment: str) -> dict[str, int]:
    command = [sys.executable, "-m", "cgsaliency.reproduce.machine_resources", *arguments]
    completed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return {name: int(value) for name, _, value in (item.partition("=") for item in completed.stdout.split())}


def test_limits_are_those_of_the_machine_or_given_ones():
    import psutil

    limits = machine_limits(CUDA_VISIBLE_DEVICES="0,1,2")
    assert limits["gpu"] == 3 and 0 < limits["mem_mb"] <= psutil.virtual_memory().total / 2**20 + 1
    assert machine_limits("2", "1.5") == {"gpu": 2, "mem_mb": 1536}
    assert machine_limits("", "4", CUDA_VISIBLE_DEVICES="")["mem_mb"] == 4096


SHOW_GPUS = """
import os, time
open(os.environ["OUT"], "w").write(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
time.sleep({})
"""


def start_with_gpus(folder: Path, name: str, count: int, seconds: float, visible: str | None) -> subprocess.Popen:
    "Start a command that writes its visible GPUs into the file with this name, and then sleeps."
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment["OUT"] = str(folder / name)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = [
        sys.executable,
        "-m",
        "cgsaliency.reproduce.with_gpus",
        str(count),
        sys.executable,
        "-c",
        SHOW_GPUS.format(seconds),
    ]
    return subprocess.Popen(command, cwd=folder, env=environment)


def wait_for_file(path: Path) -> str:
    for _ in range(300):
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{path.name} has not started")


@pytest.mark.slow
def test_each_notebook_has_its_own_gpus(tmp_path):
    "Two commands use two of three GPUs; a third that requests two GPUs waits until one of them has ended."
    first, second = (
        start_with_gpus(tmp_path, "first", 1, 60, "4,5,6"),
        start_with_gpus(tmp_path, "second", 1, 60, "4,5,6"),
    )
    try:
        assert {wait_for_file(tmp_path / "first"), wait_for_file(tmp_path / "second")} < {"4", "5", "6"}
        third = start_with_gpus(tmp_path, "third", 2, 0, "4,5,6")
        time.sleep(1.5)
        assert not (tmp_path / "third").exists()
        first.kill()
        first.wait()
        third_gpus = wait_for_file(tmp_path / "third").split(",")
        assert len(set(third_gpus)) == 2 and (tmp_path / "second").read_text() not in third_gpus and third.wait() == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


@pytest.mark.parametrize("visible, expected", [("3", "3"), ("", ""), (None, "all")])
def test_visible_devices_stay_where_there_is_no_choice(tmp_path, visible, expected):
    if visible is None and shutil.which("nvidia-smi"):
        pytest.skip("this machine may have several GPUs")
    process = start_with_gpus(tmp_path, "output", 1, 0, visible)
    assert process.wait() == 0 and (tmp_path / "output").read_text() == expected and not (tmp_path / ".make").exists()
