"""The Snakefile: what would run at each scale, and what it refuses. (`make smoke` runs it.)"""
import re, subprocess, sys
from pathlib import Path

import pytest

from cgsaliency.core.artefacts import read_json
from cgsaliency.core.scales import SCALES, load_scale, read_scale
from cgsaliency.reproduce.status import status, told

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ROOT / "nbs/papers"
scales = sorted(path.stem for path in (PAPERS / "scales").glob("*.yaml"))


def snakemake(tmp_path: Path, **config: str) -> subprocess.CompletedProcess:
    chosen = {"reports": tmp_path / "reports", "artifacts": tmp_path / "artifacts", **config}
    return subprocess.run([sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--cores", "2", "--quiet", "host", "reason", "--config", *(f"{name}={value}" for name, value in chosen.items())],
                          cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("scale", scales)
def test_every_section_of_a_scale_has_its_notebook_and_runs(scale, tmp_path):
    assert scale in SCALES
    sections = [name for name in load_scale(PAPERS / f"scales/{scale}.yaml") if name != "all"]
    ran = snakemake(tmp_path, scale=scale, **({} if "toybox" in sections else {"data": str(tmp_path)}))
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout + ran.stderr
    for section in sections:
        assert (PAPERS / f"{section}.ipynb").is_file(), section
        assert {"seed", "threads"} <= read_scale(PAPERS / f"scales/{scale}.yaml", section).keys()
        assert re.search(rf"rule {section.replace('/', '_')}:", said), f"{section} would not run"


def test_the_smallest_scale_runs_every_notebook():
    sections = load_scale(PAPERS / "scales/smoke.yaml").keys() - {"all"}
    notebooks = {path.relative_to(PAPERS).with_suffix("").as_posix() for path in PAPERS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert sections == notebooks


@pytest.mark.parametrize("scale", scales)
def test_scales_differ_in_values_alone(scale):
    "A setting that one scale lacks stops its notebook; so all have the settings of the smallest, or give weights instead of a training."
    smallest, own = (load_scale(PAPERS / f"scales/{name}.yaml") for name in ("smoke", scale))
    trained, machine = {"window", "min_count", "weights"}, {"threads", "cores", "processes"}
    for section in own.keys() - {"all"}:
        assert own[section].keys() - machine - trained == smallest[section].keys() - machine - trained, section
        assert not ((own[section].keys() ^ smallest[section].keys()) & trained) or own[section]["training"] is None or section == "ebr/frames", section


def test_no_notebook_asks_for_the_scale():
    for path in PAPERS.rglob("*.ipynb"):
        text = path.read_text()
        assert not re.search(r"if scale|scale ==|scale in|" + "|".join(rf"== *\\?[\"']{name}" for name in SCALES), text), path


@pytest.mark.parametrize("config, says", [
    ({"scale": "sample"}, "needs the folder of the data sets: make reproduce SCALE=sample DATA=folder"),
    ({"scale": "sample", "data": "nowhere"}, "'nowhere' is none"),
    ({"scale": "toybox", "data": "."}, "draws its own data"),
    ({"scale": "huge"}, "there is no scale 'huge': choose one of"),
])
def test_what_cannot_run_says_so_and_writes_nothing(config, says, tmp_path):
    ran = snakemake(tmp_path, **config)
    assert ran.returncode != 0 and says in ran.stdout + ran.stderr
    assert not list(tmp_path.iterdir())


def test_status_of_a_run_that_is_not_there_and_of_a_notebook_that_is(tmp_path):
    folders = {"reports": f"{tmp_path}/reports", "artifacts": f"{tmp_path}/artifacts"}
    found = status(ROOT, "smoke", **folders)
    assert set(found.state) == {"missing"} and len(found) > 50 and "0 of" in told(found)
    page = f"{tmp_path}/reports/smoke/ebr/figure3.ipynb"
    subprocess.run([sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", page, "--quiet", "all", "--config", "scale=smoke", *(f"{name}={folder}" for name, folder in folders.items())], cwd=ROOT, check=True, timeout=200)
    found = status(ROOT, "smoke", **folders).set_index("notebook")
    assert found.state["ebr/figure3"] == "whole" and found.seconds["ebr/figure3"] > 1 and (found.state.drop("ebr/figure3") == "missing").all()
    record = read_json(Path(page).with_suffix(".run.json"))
    assert record["device"] and record["versions"]["torch"] and record["memory_gib"] > 0.1 and len(record["code"]) == 64 and record["settings"]["seed"] == 0
    Path(page).with_suffix(".pdf").unlink()
    assert status(ROOT, "smoke", **folders).set_index("notebook").loc["ebr/figure3", ["state", "why"]].tolist() == ["missing", "figure3.pdf is not there"]
