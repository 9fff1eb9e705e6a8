"""What scale `paper` costs is counted from its settings, fits the plan of its run, and is measured on a GPU by a script
that needs PyTorch alone.
"""

import csv, os, subprocess, sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import costs
from units import paper_settings, paper_sizes, units

SETTINGS = paper_settings()
SECTIONS = [name for name in SETTINGS if name != "all"]
LIMIT = 64  # GiB of memory that no notebook may take


@pytest.fixture(scope="module")
def known() -> dict[str, float]:
    return costs.read_costs()


def of(known: dict[str, float], section: str, what: str, other: float = 0.0) -> float:
    return known.get(f"paper: {section}, {what}", other)


@pytest.fixture(scope="module")
def plan() -> dict[str, dict]:
    "What each notebook asks for."
    asked = yaml.safe_load((ROOT / "nbs/papers/plans/paper.yaml").read_text())
    return {section: {**asked["all"], **asked.get(section, {})} for section in SECTIONS}


# Counts


def test_what_is_counted_are_units_that_are_measured(known):
    counted = {name for found in costs.counts(SETTINGS).values() for name in found}
    assert counted - set(costs.HOST) <= units(paper_sizes()).keys()
    assert all(f"{name}: here" in known for name in counted)


def test_every_notebook_that_learns_is_counted():
    counted = costs.counts(SETTINGS)
    learn = [
        name
        for name in SECTIONS
        if any(
            isinstance(own, dict) and "epochs" in own
            for own in (
                SETTINGS[name].get("training"),
                *((part or {}).get("training") for part in SETTINGS[name].values() if isinstance(part, dict)),
            )
        )
    ]
    assert len(learn) > 8 and all(any(unit.startswith("training step") for unit in counted[name]) for name in learn)
    assert counted.keys() <= set(SECTIONS)


def test_steps_are_those_by_hand():
    own = {"training": {"epochs": 20, "batch_size": 10}}
    assert costs.steps(own, 113_287) == 226_574 and costs.steps(own, 100, 30) == 220
    found = costs.counts(SETTINGS)["aoa/captioners"]
    trained = [number for name, number in found.items() if name.startswith("training step")]
    assert len(trained) == 5 and trained[0] == pytest.approx(3 * 20 * (costs.COCO["train"] + 5_000 / 3) / 10)
    assert (
        costs.total(costs.COCO) == 123_287
        and costs.total(costs.FLICKR30K) == 31_014
        and costs.total(costs.MSRVTT) == 10_000
        and costs.total(costs.UCF101) == 13_320
    )


def test_reading_goes_on_beside_the_network():
    assert costs.hours({"a": 3600, costs.READ_IMAGE: 100}, {"a": 1.0}, {costs.READ_IMAGE: 4.0}) == 1.0
    assert costs.hours({"a": 36, costs.READ_IMAGE: 7200}, {"a": 1.0}, {costs.READ_IMAGE: 4.0}) == 2.0


def test_operations_of_a_recurrent_layer_are_counted():
    import torch

    layer, before = torch.nn.LSTM(3, 5, batch_first=True), torch.lstm

    def read() -> torch.Tensor:  # as S2VT does
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
    assert costs.operations(read)[0] == 3 * forward and torch.lstm is before
    with torch.no_grad():
        assert costs.operations(read)[0] == forward
    assert costs.operations(lambda: torch.rand(4, 6) @ torch.rand(6, 8))[0] == 2 * 4 * 6 * 8


# The table and the plan


def test_the_table_is_that_of_the_settings(known):
    counted = {name: value for name, value, _, _ in costs.rows(costs.units_in(known)) if name.startswith("paper: ")}
    assert {name for name in known if name.startswith("paper: ")} == counted.keys(), (
        "count anew: benchmarks/costs.py --counted"
    )
    assert all(known[name] == pytest.approx(value, rel=2e-3) for name, value in counted.items()), (
        "count anew: benchmarks/costs.py --counted"
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_no_notebook_takes_more_memory_than_machines_have(section, known):
    assert 0.5 < of(known, section, "memory") <= LIMIT


@pytest.mark.parametrize("section", SECTIONS)
def test_the_plan_asks_for_what_a_notebook_takes(section, known, plan):
    asked = plan[section]
    assert of(known, section, "memory") <= asked["memory_gib"] <= LIMIT
    assert of(known, section, "disk") + of(known, section, "disk while it trains") <= asked["disk_gb"]
    assert (of(known, section, "GPU") if asked["gpu"] else of(known, section, "two cores")) <= asked["hours"]
    if of(known, section, "two cores") > 24:
        assert asked["gpu"] or section == "aoa/proposals"


def test_no_notebook_took_more_in_the_rehearsal_than_is_counted(known):
    found = costs.rehearsed_memory()
    if not found:
        pytest.skip("make rehearse has not been run")
    assert found.keys() >= set(SECTIONS)
    assert all(found[section] <= of(known, section, "memory") * 1.001 for section in SECTIONS)


def test_loaders_need_no_more_than_is_counted():
    volume = costs.RESULTS / "volume.csv"
    if not volume.is_file():
        pytest.skip("benchmarks/volume.py has not been run")
    names = {"Flickr30k": "flickr30k", "MSCOCO": "coco", "MSR-VTT": "msrvtt"}
    with volume.open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["name"].startswith("load ") and row["name"].endswith("whole, memory") and row["unit"] == "MiB"
        ]
    judged = [
        (float(row["value"]) / 1024, costs.LOADED[own])
        for row in rows
        for name, own in names.items()
        if row["name"].startswith(f"load {name}")
    ]
    assert judged and all(found <= counted for found, counted in judged)


# On a GPU


def test_all_units_run_on_a_device_that_is_not_there():
    import torch
    from stand_in_device import StandIn
    from units import smallest_sizes

    for unit in units(smallest_sizes()).values():
        with StandIn():
            unit.make(torch.device("cuda"))()


BLOCKED = (
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


def test_the_script_for_a_gpu_needs_no_package_besides_pytorchs():
    blocked = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    folders = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT)]
    wanted = "import gpu, test_gpu\nassert len(gpu.PARTS) == 7 and len(test_gpu.CASES) > 20"
    script = f"{blocked}sys.path[:0] = {folders!r}\n{wanted}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def measured(out: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--smallest", "--out", str(out), *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "CGSALIENCY_DEVICE": "cpu", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_what_stands_in_the_table_is_not_measured_again(tmp_path):
    out = tmp_path / "gpu.csv"
    first = measured(out, "--only", "products", "features")
    rows = list(csv.DictReader(out.open()))
    assert (
        "products: bf16" in first
        and any(row["name"].startswith("features: Inception-v3 features of an image, bf16") for row in rows)
        and all(row["machine"].endswith("smallest sizes") for row in rows)
    )
    lost = [row for row in rows if row["name"] != "products: tf32"] + [rows[0] | {"machine": "another device"}]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lost)
    second = measured(out, "--only", "products", "features")
    assert "products: tf32" in second and "products: bf16" not in second and "features: VGG" not in second
    again = list(csv.DictReader(out.open()))
    assert sorted(row["name"] for row in again) == sorted([row["name"] for row in rows] + [rows[0]["name"]]) and any(
        row["machine"] == "another device" for row in again
    )


def test_help_says_what_it_does():
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(
        part in done.stdout
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
