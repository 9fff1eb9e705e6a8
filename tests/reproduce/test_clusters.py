"""Runs on clusters: the profiles of Snakemake, and jobs through commands of a scheduler that are simulated here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cgsaliency.reproduce.scale_config import load_plan, load_scale

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("ebr/figure3", "ebr/figure4")  # they need no other notebook


def snakemake(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--nolock", *arguments], cwd=ROOT, capture_output=True, text=True, **options
    )


def config_arguments(folder):
    return ["--config", "scale=smoke", f"reports={folder}/reports", f"artifacts={folder}/artifacts"]


def report_paths(folder):
    return [f"{folder}/reports/smoke/{name}.ipynb" for name in NOTEBOOKS]


@pytest.mark.parametrize("profile", ["slurm", "kubernetes", "generic"])
def test_snakemake_accepts_each_profile_and_plans_every_notebook(tmp_path, profile):
    planned = snakemake(
        "--profile",
        f"profiles/{profile}",
        "--dry-run",
        *(["--cluster-generic-submit-cmd", "true"] if profile == "generic" else []),
        *config_arguments(tmp_path),
    )
    assert planned.returncode == 0, planned.stderr[-2000:]
    sections = [name for name in load_scale("smoke") if name != "all"]
    assert (
        all(f"{tmp_path}/reports/smoke/{name}.ipynb" in planned.stdout + planned.stderr for name in sections)
        and len(sections) > 50
    )


def rule_resources(output: str) -> dict[str, dict[str, str]]:
    "Return the resources of each rule from the output of a dry run."
    blocks = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", output, re.MULTILINE | re.DOTALL)
    return {
        name: dict(
            resource.strip().split("=")
            for line in re.findall(r"resources: (.*)", block)
            for resource in line.split(",")
        )
        for name, block in blocks
    }


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_jobs_of_scale_paper_request_the_planned_resources(tmp_path, profile):
    planned = snakemake(
        "--profile",
        f"profiles/{profile}",
        "--dry-run",
        "--config",
        "scale=paper",
        f"data={tmp_path}",
        f"reports={tmp_path}/reports",
        f"artifacts={tmp_path}/artifacts",
    )
    assert planned.returncode == 0, planned.stderr[-2000:]
    resources, plan = rule_resources(planned.stdout + planned.stderr), load_plan("paper")
    sections = [name for name in load_scale("paper") if name != "all"]
    assert len(sections) > 50 and plan["cgvs/captioner"]["gpu"] == 1
    for section in sections:
        planned_resources, requested = plan["all"] | plan.get(section, {}), resources[section.replace("/", "_")]
        expected = {
            "gpu": planned_resources["gpu"],
            "mem_mb": 1024 * planned_resources["memory_gib"],
            "disk_mb": 1000 * planned_resources["disk_gb"],
            "runtime": 60 * planned_resources["hours"],
        }
        assert {name: int(requested.get(name, 0)) for name in expected} == expected, section


def reports_are_complete(folder):
    return all("execution_count" in path.read_text() for path in map(Path, report_paths(folder)))


def test_jobs_through_a_submit_command(tmp_path):
    submit = tmp_path / "submit.sh"
    submit.write_text(
        f'#!/bin/bash\nnohup bash "$1" > {tmp_path}/job.$$.log 2>&1 &\necho $! | tee -a {tmp_path}/submitted\n'
    )
    submit.chmod(0o755)
    completed = snakemake(
        "--profile",
        "profiles/generic",
        "--latency-wait",
        "20",
        "--jobs",
        "2",
        "--cluster-generic-submit-cmd",
        str(submit),
        *report_paths(tmp_path),
        *config_arguments(tmp_path),
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr[-3000:] + "".join(
        path.read_text()[-1000:] for path in tmp_path.glob("job.*.log")
    )
    assert reports_are_complete(tmp_path) and len((tmp_path / "submitted").read_text().split()) == len(NOTEBOOKS)


KUBECTL_SCRIPT = """#!PYTHON
# A simulated kubectl: `create` reads a job and runs its container, `get` prints its status.
import json
import os
import subprocess
import sys
from pathlib import Path

folder = Path("FOLDER")
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    name = job["metadata"]["name"]
    (folder / f"{name}.json").write_text(json.dumps(job))
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([sys.executable, __file__, "run-pod", name], start_new_session=True, **output)
elif sys.argv[1] == "run-pod":
    name = sys.argv[2]
    job = json.loads((folder / f"{name}.json").read_text())
    container = job["spec"]["template"]["spec"]["containers"][0]
    with (folder / "pods.log").open("a") as log:
        pod = subprocess.run(container["command"], cwd=container["workingDir"], stdout=log, stderr=log)
    (folder / f"{name}.part").write_text(str(pod.returncode))
    os.replace(folder / f"{name}.part", folder / f"{name}.exit_code")
else:
    exit_code = folder / f"{sys.argv[3]}.exit_code"
    status = {}
    if exit_code.exists():
        status = {"succeeded": 1} if exit_code.read_text() == "0" else {"failed": 1}
    print(json.dumps({"status": status}))
"""


def test_jobs_through_a_simulated_kubectl(tmp_path):
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin/kubectl"
    kubectl.write_text(KUBECTL_SCRIPT.replace("PYTHON", sys.executable).replace("FOLDER", str(tmp_path)))
    kubectl.chmod(0o755)
    completed = snakemake(
        "--profile",
        "profiles/kubernetes",
        "--latency-wait",
        "20",
        *report_paths(tmp_path)[:1],
        *config_arguments(tmp_path),
        timeout=300,
        env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    )
    assert completed.returncode == 0, completed.stderr[-3000:] + (tmp_path / "pods.log").read_text()[-2000:]
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("cgsaliency-*.json")]
    container = jobs[0]["spec"]["template"]["spec"]["containers"][0]
    assert (
        len(jobs) == 1
        and container["workingDir"] == str(ROOT)
        and container["resources"]["requests"] == {"cpu": "1", "memory": "16000Mi"}
        and container["resources"]["limits"]["nvidia.com/gpu"] == "0"
    )
    assert jobs[0]["spec"]["activeDeadlineSeconds"] == 240 * 60 and jobs[0]["metadata"]["annotations"] == {
        "cgsaliency/disk": "1000 MB"
    }


def test_failed_submission_is_reported(tmp_path):
    completed = snakemake(
        "--profile",
        "profiles/generic",
        "--retries",
        "0",
        "--cluster-generic-submit-cmd",
        "false",
        *report_paths(tmp_path)[:1],
        *config_arguments(tmp_path),
        timeout=120,
    )
    assert (
        completed.returncode
        and "false" in completed.stderr
        and not any(Path(path).exists() for path in report_paths(tmp_path))
    )
