"""The costs of scale paper: counts from its settings, the plan of its run, and the script that measures on a GPU."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

import costs
from cgsaliency.reproduce.scale_config import load_plan
from units import paper_settings, paper_sizes, units

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = paper_settings()
SECTIONS = [name for name in SETTINGS if name != "all"]
MAX_MEMORY = 64  # GiB that a notebook may take


@pytest.fixture(scope="module")
def cost_table() -> dict[str, float]:
    return costs.read_costs()


def cost(cost_table: dict[str, float], section: str, kind: str, default: float = 0.0) -> float:
    return cost_table.get(f"paper: {section}, {kind}", default)


@pytest.fixture(scope="module")
def planned_resources() -> dict[str, dict]:
    "Return the planned resources of each notebook."
    plan = load_plan("paper")
    return {section: {**plan["all"], **plan.get(section, {})} for section in SECTIONS}


# Counts


def test_counted_units_are_measured(cost_table):
    counted = {name for counts_ in costs.counts(SETTINGS).values() for name in counts_}
    assert counted - set(costs.HOST) <= units(paper_sizes()).keys()
    assert all(f"{name}: here" in cost_table for name in counted)


def test_every_training_notebook_is_counted():
    counted = costs.counts(SETTINGS)
    training = [
        name
        for name in SECTIONS
        if any(
            isinstance(settings, dict) and "epochs" in settings
            for settings in (
                SETTINGS[name].get("training"),
                *((value or {}).get("training") for value in SETTINGS[name].values() if isinstance(value, dict)),
            )
        )
    ]
    assert len(training) > 8 and all(
        any(unit.startswith("training step") for unit in counted[name]) for name in training
    )
    assert counted.keys() <= set(SECTIONS)


def test_numbers_of_steps():
    settings = {"training": {"epochs": 20, "batch_size": 10}}
    assert costs.steps(settings, 113_287) == 226_574 and costs.steps(settings, 100, 30) == 220
    counts = costs.counts(SETTINGS)["aoa/train_terms"]
    trained = [count for name, count in counts.items() if name.startswith("training step")]
    assert len(trained) == 5 and trained[0] == pytest.approx(3 * 20 * (costs.COCO["train"] + 5_000 / 3) / 10)
    assert (
        costs.total(costs.COCO) == 92_783
        and costs.total(costs.FLICKR30K) == 31_014
        and costs.total(costs.MSRVTT) == 10_000
        and costs.total(costs.UCF101) == 13_320
    )


def test_reading_overlaps_with_the_network():
    assert costs.hours({"a": 3600, costs.READ_IMAGE: 100}, {"a": 1.0}, {costs.READ_IMAGE: 4.0}) == 1.0
    assert costs.hours({"a": 36, costs.READ_IMAGE: 7200}, {"a": 1.0}, {costs.READ_IMAGE: 4.0}) == 2.0


def test_operations_of_a_recurrent_layer():
    import torch

    layer, original = torch.nn.LSTM(3, 5, batch_first=True), torch.lstm

    def run_lstm() -> torch.Tensor:  # as in S2VT
        state = [torch.zeros(1, 2, 5)] * 2
        return torch.lstm(
            torch.rand(2, 7, 3),
            state,
            [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0],
            True,
            1,
            0.0,
            False,
            False,
            True,
        )[0]

    forward = 2 * 2 * 7 * (20 * 3 + 20 * 5)
    assert costs.operations(run_lstm)[0] == 3 * forward and torch.lstm is original
    with torch.no_grad():
        assert costs.operations(run_lstm)[0] == forward
    assert costs.operations(lambda: torch.rand(4, 6) @ torch.rand(6, 8))[0] == 2 * 4 * 6 * 8


# The table and the plan


def test_the_table_matches_the_settings(cost_table):
    counted = {
        name: value for name, value, _, _ in costs.rows(costs.units_in(cost_table)) if name.startswith("paper: ")
    }
    assert {name for name in cost_table if name.startswith("paper: ")} == counted.keys(), (
        "count anew: benchmarks/costs.py --counted"
    )
    assert all(cost_table[name] == pytest.approx(value, rel=2e-3) for name, value in counted.items()), (
        "count anew: benchmarks/costs.py --counted"
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_memory_of_each_notebook_is_limited(section, cost_table):
    assert 0.5 < cost(cost_table, section, "memory") <= MAX_MEMORY


@pytest.mark.parametrize("section", SECTIONS)
def test_the_plan_covers_the_costs_of_each_notebook(section, cost_table, planned_resources):
    planned = planned_resources[section]
    assert cost(cost_table, section, "memory") <= planned["memory_gib"] <= MAX_MEMORY
    assert cost(cost_table, section, "disk") + cost(cost_table, section, "disk while it trains") <= planned["disk_gb"]
    assert (cost(cost_table, section, "GPU") if planned["gpu"] else cost(cost_table, section, "two cores")) <= planned[
        "hours"
    ]
    if cost(cost_table, section, "two cores") > 24:
        assert planned["gpu"] or section == "aoa/proposals"


def test_memory_in_the_rehearsal_is_within_the_counted_memory(cost_table):
    measured = costs.rehearsed_memory()
    if not measured:
        pytest.skip("make rehearse has not been run")
    assert measured.keys() >= set(SECTIONS)
    assert all(measured[section] <= cost(cost_table, section, "memory") * 1.001 for section in SECTIONS)


def test_memory_of_loaders_is_within_the_counted_memory():
    path = costs.RESULTS / "dataset_scaling.csv"
    if not path.is_file():
        pytest.skip("benchmarks/dataset_scaling.py has not been run")
    names = {"Flickr30k": "flickr30k", "MSCOCO": "coco", "MSR-VTT": "msrvtt"}
    with path.open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["name"].startswith("load ") and row["name"].endswith("whole, memory") and row["unit"] == "MiB"
        ]
    pairs = [
        (float(row["value"]) / 1024, costs.LOADED[key])
        for row in rows
        for name, key in names.items()
        if row["name"].startswith(f"load {name}")
    ]
    assert pairs and all(measured <= counted for measured, counted in pairs)


# On a GPU


@pytest.mark.slow
def test_all_units_run_on_the_simulated_device():
    import torch

    from stand_in_device import StandIn
    from units import smallest_sizes

    for unit in units(smallest_sizes()).values():
        with StandIn():
            unit.make(torch.device("cuda"))()


BLOCKED_MODULES = (
    "av",
    "zarr",
    "numcodecs",
    "nbdev",
    "papermill",
    "snakemake",
    "pycocoevalcap",
    "execnb",
    "fastcore",
    "defusedxml",
    "anywidget",
    "ipywidgets",
    "traitlets",
    "IPython",
    "nbformat",
)


@pytest.mark.slow
def test_the_gpu_script_needs_few_packages():
    block_imports = f"import sys\nfor name in {BLOCKED_MODULES!r}: sys.modules[name] = None\n"
    folders = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT / "tests/project"), str(ROOT)]
    code = "import gpu, test_gpu\nassert len(gpu.PARTS) == 7 and len(test_gpu.CASES) > 20"
    script = f"{block_imports}sys.path[:0] = {folders!r}\n{code}"
    completed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr[-2000:]


def run_gpu_script(out: Path, *options: str) -> str:
    completed = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--smallest", "--out", str(out), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CGSALIENCY_DEVICE": "cpu", "OMP_NUM_THREADS": "1"},
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    return completed.stdout


@pytest.mark.slow
def test_existing_measurements_are_not_repeated(tmp_path):
    out = tmp_path / "gpu.csv"
    first = run_gpu_script(out, "--only", "products", "features")
    rows = list(csv.DictReader(out.open()))
    assert (
        "products: bf16" in first
        and any(row["name"].startswith("features: Inception-v3 features of an image, bf16") for row in rows)
        and all(row["machine"].endswith("smallest sizes") for row in rows)
    )
    reduced = [row for row in rows if row["name"] != "products: tf32"] + [rows[0] | {"machine": "another device"}]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(reduced)
    second = run_gpu_script(out, "--only", "products", "features")
    assert "products: tf32" in second and "products: bf16" not in second and "features: VGG" not in second
    again = list(csv.DictReader(out.open()))
    assert sorted(row["name"] for row in again) == sorted([row["name"] for row in rows] + [rows[0]["name"]]) and any(
        row["machine"] == "another device" for row in again
    )


@pytest.mark.slow
def test_help_describes_parts_and_options():
    completed = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(
        part in completed.stdout
        for part in (
            "tests",
            "products",
            "training",
            "features",
            "explaining",
            "decoding",
            "hours",
            "--smallest",
            "--again",
            "eight minutes",
        )
    )
