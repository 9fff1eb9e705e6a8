"""Scale rehearsal is scale paper with smaller counts and nothing else; plans; what gives each notebook its GPUs."""
import os, re, shutil, subprocess, sys, time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cgsaliency.core.scales import load_scale, merge_settings
from cgsaliency.reproduce.rehearsal import flat_settings, shortened

ROOT = Path(__file__).resolve().parent.parent
SCALES, PLANS = ROOT / "nbs/papers/scales", ROOT / "nbs/papers/plans"
PAPER, REHEARSAL = (load_scale(SCALES / f"{name}.yaml") for name in ("paper", "rehearsal"))

# How many of something are taken, or which: what a rehearsal may change. Sizes, kinds, frames, regions, batches and
# rates are not among them.
COUNTS = {"draws", "epochs", "max_steps", "shown", "judged", "looked", "films", "pixels", "levels", "randomised",
          "seeds", "train", "picture", "film", "first", "clips", "captions"}
MACHINE = {"cores", "workers"}       # what a machine may have fewer of
EVERYWHERE = {"threads", "note"}     # of section all: the cores at hand, and what the numbers are worth


def overrides() -> dict[str, dict]:
    "What the rehearsal's own file says."
    return yaml.safe_load((SCALES / "rehearsal.yaml").read_text())


def test_the_rehearsal_extends_the_papers_scale():
    assert overrides()["extends"] == "paper"
    assert REHEARSAL.keys() == PAPER.keys() and len(PAPER) > 40


def test_only_counts_are_overridden():
    for section, own in overrides().items():
        if section in ("extends", "all"):
            continue
        assert section in PAPER, section
        odd = [name for name in flat_settings(own) if name.rpartition(".")[2] not in COUNTS | MACHINE]
        assert not odd, f"{section}: {odd} are no counts"
    assert set(overrides()["all"]) == EVERYWHERE


def test_no_setting_escapes():
    "Each setting of paper is there, of the same kind; all that differs is a count, and smaller."
    for section, own in PAPER.items():
        before, after = flat_settings(own), flat_settings(REHEARSAL[section])
        assert not before.keys() - after.keys(), section
        assert {name.rpartition(".")[2] for name in after.keys() - before.keys()} <= {"max_steps"}, section
        for name, value in before.items():
            if section == "all" and name in EVERYWHERE:
                continue
            other, where = after[name], f"{section}: {name}"
            assert type(other) is type(value), where
            if name.rpartition(".")[2] not in COUNTS | MACHINE:
                assert other == value, where
            elif isinstance(value, list):
                assert len(other) <= len(value), where
            else:
                assert other <= value, where


def test_every_training_is_bounded_and_seeds_stay_several():
    for section, own in REHEARSAL.items():
        flat = flat_settings(own)
        trainings = [name.rpartition(".")[0] for name in flat if name.endswith("training.batch_size")]
        for training in trainings:
            assert (flat[f"{training}.epochs"], flat[f"{training}.max_steps"]) == (1, 2), f"{section}: {training}"
        if "seeds" in own:
            assert len(own["seeds"]) == 2, section


def test_what_is_overridden_for_nothing_is_not_written():
    table = shortened(PAPER, REHEARSAL)
    own_file = {section: own for section, own in overrides().items() if section != "extends"}
    written = {(section, name) for section, own in own_file.items() for name in flat_settings(own)}
    assert written == set(zip(table.notebook, table.setting))


@pytest.mark.parametrize("change, says", [
    ({"cgvs/captioner": {"sizes": {"hidden": 8}}}, "sizes.hidden"), ({"ebr/table1": {"frames": 4}}, "frames"),
    ({"aoa/eyes": {"network": "toyvgg"}}, "network"),
])
def test_a_smaller_size_would_be_found(change, says):
    "The checks above can fail."
    table = shortened(PAPER, merge_settings(REHEARSAL, change))
    changed = table[table.notebook != "all"].setting
    odd = [name for name in changed if name.rpartition(".")[2] not in COUNTS | MACHINE]
    assert odd == [says]


# Plans

def planned(name: str) -> dict[str, dict]:
    plan = load_scale(PLANS / f"{name}.yaml")
    return {section: {**plan["all"], **plan.get(section, {})} for section in PAPER if section != "all"}


@pytest.mark.parametrize("name, most", [("paper", 64), ("rehearsal", 16)])
def test_the_plan_names_notebooks_and_asks_for_what_machines_have(name, most):
    plan = load_scale(PLANS / f"{name}.yaml")
    notebooks = {path.relative_to(SCALES.parent).with_suffix("").as_posix() for path in SCALES.parent.rglob("*.ipynb")}
    assert plan.keys() - {"all"} <= notebooks | {"aoa/proposals"}
    for section, own in planned(name).items():
        assert own.keys() == {"gpu", "memory_gib", "disk_gb", "hours"}, section
        assert all(isinstance(value, int) and value >= 0 for value in own.values()), section
        assert own["memory_gib"] <= most and own["gpu"] <= 1, section


def test_what_trains_asks_for_a_gpu():
    plan = planned("paper")
    settings = {section: flat_settings(own) for section, own in PAPER.items()}
    trains = [section for section, own in settings.items() if any(name.endswith("batch_size") for name in own)]
    assert len(trains) > 10 and all(plan[section]["gpu"] == 1 for section in trains)
    assert plan["face_to_face"]["gpu"] == 1 and plan["ebr/table1"]["gpu"] == 1


def test_the_plan_of_the_rehearsal_covers_what_it_took():
    measured = pd.read_csv(ROOT / "benchmarks/results/rehearsal.csv").set_index("name").value
    for section, own in planned("rehearsal").items():
        assert measured[f"rehearsal: {section}, largest memory"] <= own["memory_gib"], section
        assert measured[f"rehearsal: {section}"] <= 3600 * own["hours"], section
    assert measured["rehearsal: largest memory of a notebook"] <= 16


# GPUs and memory of a machine

def resources(folder: Path, *limits: str) -> dict[str, dict[str, str]]:
    "What each rule of scale paper asks for under these limits."
    call = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "2", "--dry-run", "--resources", *limits,
            "--config", "scale=paper", f"data={folder}", f"reports={folder}/r", f"artifacts={folder}/a"]
    planned = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr[-2000:]
    said = planned.stdout + planned.stderr
    blocks = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", said, re.MULTILINE | re.DOTALL)
    lines = {name: "".join(re.findall(r"resources: (.*)", block)) for name, block in blocks}
    return {name: dict(one.strip().split("=") for one in line.split(",") if one) for name, line in lines.items()}


def test_without_a_gpu_what_asks_for_one_still_runs(tmp_path):
    "Snakemake asks for no more than the machine has, so nothing waits for ever."
    found = resources(tmp_path, "gpu=0", "mem_mb=8192")
    notebooks = {name: own for name, own in found.items() if name not in ("all", "index")}
    assert len(notebooks) > 40 and all(own["gpu"] == "0" and int(own["mem_mb"]) <= 8192 for own in notebooks.values())
    own = resources(tmp_path, "gpu=2", "mem_mb=131072")["cgvs_captioner"]
    assert own["gpu"] == "1" and int(own["mem_mb"]) == 1024 * planned("paper")["cgvs/captioner"]["memory_gib"]


def limits(*arguments: str, **environment: str) -> dict[str, int]:
    call = [sys.executable, "tools/limits.py", *arguments]
    ran = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | environment)
    return {name: int(value) for name, _, value in (one.partition("=") for one in ran.stdout.split())}


def test_the_limits_are_those_of_the_machine_or_those_that_are_given():
    import psutil
    found = limits(CUDA_VISIBLE_DEVICES="0,1,2")
    assert found["gpu"] == 3 and 0 < found["mem_mb"] <= psutil.virtual_memory().total / 2 ** 20 + 1
    assert limits("2", "1.5") == {"gpu": 2, "mem_mb": 1536}
    assert limits("", "4", CUDA_VISIBLE_DEVICES="")["mem_mb"] == 4096


SHOW = """
import os, time
open(os.environ["OUT"], "w").write(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
time.sleep({})
"""

def started(folder: Path, name: str, count: int, seconds: float, visible: str | None) -> subprocess.Popen:
    "A command that writes which GPUs it is shown into the file of that name, and then takes its time."
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    environment["OUT"] = str(folder / name)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    call = [sys.executable, str(ROOT / "tools/with_gpus.py"), str(count), sys.executable, "-c", SHOW.format(seconds)]
    return subprocess.Popen(call, cwd=folder, env=environment)


def waited(path: Path) -> str:
    for _ in range(300):
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{path.name} has not started")


def test_each_notebook_has_gpus_of_its_own(tmp_path):
    "Two run on two of the three GPUs; a third that asks for two waits until one of them has ended, however it ends."
    first, second = started(tmp_path, "first", 1, 60, "4,5,6"), started(tmp_path, "second", 1, 60, "4,5,6")
    try:
        assert {waited(tmp_path / "first"), waited(tmp_path / "second")} < {"4", "5", "6"}
        third = started(tmp_path, "third", 2, 0, "4,5,6")
        time.sleep(1.5)
        assert not (tmp_path / "third").exists()
        first.kill()
        first.wait()
        both = waited(tmp_path / "third").split(",")
        assert len(set(both)) == 2 and (tmp_path / "second").read_text() not in both and third.wait() == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


@pytest.mark.parametrize("visible, shown", [("3", "3"), ("", ""), (None, "all")])
def test_where_there_is_no_choice_nothing_is_changed(tmp_path, visible, shown):
    if visible is None and shutil.which("nvidia-smi"):
        pytest.skip("this machine may have several GPUs")
    process = started(tmp_path, "one", 1, 0, visible)
    assert process.wait() == 0 and (tmp_path / "one").read_text() == shown and not (tmp_path / ".make").exists()
