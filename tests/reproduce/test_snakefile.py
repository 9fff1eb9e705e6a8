"""The Snakefile: what it would run at each scale, and its errors. `make smoke` runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cgsaliency.core.io import read_json
from cgsaliency.reproduce.scale_config import SCALES, load_scale, load_scale_config, notebook_of, scale_path
from cgsaliency.reproduce.status import format_status, status

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "nbs/papers"
SCALE_NAMES = sorted(path.stem for path in scale_path("smoke").parent.glob("*.yaml"))


def dry_run(tmp_path: Path, **config: str) -> subprocess.CompletedProcess:
    settings = {"reports": tmp_path / "reports", "artifacts": tmp_path / "artifacts", **config}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "--dry-run",
            "--nolock",
            "--cores",
            "2",
            "--quiet",
            "host",
            "reason",
            "--config",
            *(f"{name}={value}" for name, value in settings.items()),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_every_section_of_a_scale_has_a_notebook_and_a_rule(scale, tmp_path):
    assert scale in SCALES
    sections = [name for name in load_scale(scale) if name != "all"]
    completed = dry_run(tmp_path, scale=scale, **({} if "synth_flickr30k" in sections else {"data": str(tmp_path)}))
    assert completed.returncode == 0, completed.stderr
    output = completed.stdout + completed.stderr
    for section in sections:
        assert (PAPERS / f"{notebook_of(section)}.ipynb").is_file(), section
        assert {"seed", "threads"} <= load_scale_config(scale, section).keys()
        assert re.search(rf"rule {section.replace('/', '_')}:", output), f"{section} would not run"


def test_scale_smoke_runs_every_notebook():
    sections = load_scale("smoke").keys() - {"all"}
    notebooks = {
        path.relative_to(PAPERS).with_suffix("").as_posix()
        for path in PAPERS.rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    assert {notebook_of(section) for section in sections} == notebooks


@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_scales_have_the_same_settings(scale):
    "All scales have the settings of the smallest one, or weights instead of a training."
    smallest, settings = (load_scale(name) for name in ("smoke", scale))
    optional, machine_settings = {"crop_size", "min_count", "weights"}, {"threads", "cores", "processes"}
    for section in settings.keys() - {"all"}:
        assert (
            settings[section].keys() - machine_settings - optional
            == smallest[section].keys() - machine_settings - optional
        ), section
        assert (
            not ((settings[section].keys() ^ smallest[section].keys()) & optional)
            or settings[section]["training"] is None
            or section == "ebr/frame_cnn"
        ), section


def test_no_notebook_depends_on_the_name_of_the_scale():
    for path in PAPERS.rglob("*.ipynb"):
        text = path.read_text()
        assert not re.search(
            r"if scale|scale ==|scale in|" + "|".join(rf"== *\\?[\"']{name}" for name in SCALES), text
        ), path


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, message",
    [
        ({"scale": "sample"}, "needs the folder of the data sets: make reproduce SCALE=sample DATA=folder"),
        ({"scale": "sample", "data": "nowhere"}, "'nowhere' is not a folder"),
        ({"scale": "toybox", "data": "."}, "generates synthetic data"),
        ({"scale": "huge"}, "there is no scale 'huge': choose one of"),
    ],
)
def test_wrong_configurations_are_reported_and_write_nothing(config, message, tmp_path):
    completed = dry_run(tmp_path, **config)
    assert completed.returncode != 0 and message in completed.stdout + completed.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_status_of_missing_and_complete_notebooks(tmp_path):
    folders = {"reports": f"{tmp_path}/reports", "artifacts": f"{tmp_path}/artifacts"}
    table = status(ROOT, "smoke", **folders)
    assert set(table.state) == {"missing"} and len(table) > 50 and "0 of" in format_status(table)
    report = f"{tmp_path}/reports/smoke/ebr/figure3.ipynb"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "--nolock",
            "--cores",
            "1",
            report,
            "--quiet",
            "all",
            "--config",
            "scale=smoke",
            *(f"{name}={folder}" for name, folder in folders.items()),
        ],
        cwd=ROOT,
        check=True,
        timeout=200,
    )
    table = status(ROOT, "smoke", **folders).set_index("notebook")
    assert (
        table.state["ebr/figure3"] == "complete"
        and table.seconds["ebr/figure3"] > 1
        and (table.state.drop("ebr/figure3") == "missing").all()
    )
    record = read_json(Path(report).with_suffix(".run.json"))
    assert (
        record["device"]
        and record["versions"]["torch"]
        and record["memory_gib"] > 0.1
        and len(record["code"]) == 64
        and record["settings"]["seed"] == 0
    )
    Path(report).with_suffix(".pdf").unlink()
    assert status(ROOT, "smoke", **folders).set_index("notebook").loc["ebr/figure3", ["state", "reason"]].tolist() == [
        "missing",
        "figure3.pdf is not there",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv/bin/python").exists(), reason="make runs the environment of the project")
def test_make_weights_starts_with_all_its_arguments(tmp_path):
    "The target must not be read as a value of --resources or --config."
    completed = subprocess.run(
        [
            "make",
            "-s",
            "run-weights",
            "SCALE=smoke",
            "ARGS=--dry-run",
            f"ARTIFACTS={tmp_path}/a",
            f"REPORTS={tmp_path}/r",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    assert "cgvs_backbone" in completed.stdout + completed.stderr
