"""The same run on clusters: profiles that Snakemake takes, and jobs that go through a scheduler's commands, played by this machine."""
import json, os, re, subprocess, sys
from pathlib import Path

import pytest

from cgsaliency.core.scales import load_scale

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ("ebr/figure3", "ebr/figure4")     # they need nothing of others


def snakemake(*arguments, **more): return subprocess.run([sys.executable, "-m", "snakemake", "--nolock", *arguments], cwd=ROOT, capture_output=True, text=True, **more)
def told(folder): return ["--config", "scale=smoke", f"reports={folder}/reports", f"artifacts={folder}/artifacts"]
def wanted(folder): return [f"{folder}/reports/smoke/{name}.ipynb" for name in NOTEBOOKS]


@pytest.mark.parametrize("profile", ["slurm", "kubernetes", "generic"])
def test_snakemake_takes_the_profile_and_plans_every_notebook(tmp_path, profile):
    planned = snakemake("--profile", f"profiles/{profile}", "--dry-run", *(["--cluster-generic-submit-cmd", "true"] if profile == "generic" else []), *told(tmp_path))
    assert planned.returncode == 0, planned.stderr[-2000:]
    sections = [name for name in load_scale(ROOT / "nbs/papers/scales/smoke.yaml") if name != "all"]
    assert all(f"{tmp_path}/reports/smoke/{name}.ipynb" in planned.stdout + planned.stderr for name in sections) and len(sections) > 50


def asked(planned: str) -> dict[str, dict[str, str]]:
    "What each rule of a plan asks for."
    blocks = re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", planned, re.MULTILINE | re.DOTALL)
    return {name: dict(one.strip().split("=") for line in re.findall(r"resources: (.*)", block) for one in line.split(",")) for name, block in blocks}


@pytest.mark.parametrize("profile", ["slurm", "kubernetes"])
def test_at_the_scale_of_the_papers_each_job_asks_for_what_the_plan_says(tmp_path, profile):
    planned = snakemake("--profile", f"profiles/{profile}", "--dry-run", "--config", "scale=paper", f"data={tmp_path}", f"reports={tmp_path}/reports", f"artifacts={tmp_path}/artifacts")
    assert planned.returncode == 0, planned.stderr[-2000:]
    found, plan = asked(planned.stdout + planned.stderr), load_scale(ROOT / "nbs/papers/plans/paper.yaml")
    sections = [name for name in load_scale(ROOT / "nbs/papers/scales/paper.yaml") if name != "all"]
    assert len(sections) > 50 and plan["cgvs/captioner"]["gpu"] == 1
    for section in sections:
        own, job = plan["all"] | plan.get(section, {}), found[section.replace("/", "_")]
        wanted = {"gpu": own["gpu"], "mem_mb": 1024 * own["memory_gib"], "disk_mb": 1000 * own["disk_gb"], "runtime": 60 * own["hours"]}
        assert {name: int(job.get(name, 0)) for name in wanted} == wanted, section


def whole(folder): return all("execution_count" in path.read_text() for path in map(Path, wanted(folder)))


def test_any_scheduler_by_its_submit_command(tmp_path):
    submit = tmp_path / "submit.sh"
    submit.write_text(f"#!/bin/bash\nnohup bash \"$1\" > {tmp_path}/job.$$.log 2>&1 &\necho $! | tee -a {tmp_path}/submitted\n")
    submit.chmod(0o755)
    done = snakemake("--profile", "profiles/generic", "--latency-wait", "20", "--jobs", "2", "--cluster-generic-submit-cmd", str(submit), *wanted(tmp_path), *told(tmp_path), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:] + "".join(path.read_text()[-1000:] for path in tmp_path.glob("job.*.log"))
    assert whole(tmp_path) and len((tmp_path / "submitted").read_text().split()) == len(NOTEBOOKS)


KUBECTL = """#!{python}
import json, os, re, subprocess, sys
from pathlib import Path
folder = Path({folder!r})
if sys.argv[1] == "create":
    job = json.load(sys.stdin)
    own = job["spec"]["template"]["spec"]["containers"][0]
    (folder / f"{{job['metadata']['name']}}.json").write_text(json.dumps(job))
    code = f"import subprocess; done = subprocess.run({{own['command']!r}}, cwd={{own['workingDir']!r}}, stdout=open({{str(folder / 'pods.log')!r}}, 'a'), stderr=subprocess.STDOUT); open({{str(folder / job['metadata']['name'])!r}}, 'w').write(str(done.returncode))"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
else:
    ended = folder / sys.argv[3]
    print(json.dumps({{"status": {{}} if not ended.exists() else {{"succeeded": 1}} if ended.read_text() == "0" else {{"failed": 1}}}}))
"""

def test_kubernetes_through_a_kubectl_that_this_machine_plays(tmp_path):
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin/kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable, folder=str(tmp_path)))
    kubectl.chmod(0o755)
    done = snakemake("--profile", "profiles/kubernetes", "--latency-wait", "20", *wanted(tmp_path)[:1], *told(tmp_path), timeout=300, env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr[-3000:] + (tmp_path / "pods.log").read_text()[-2000:]
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("cgsaliency-*.json")]
    own = jobs[0]["spec"]["template"]["spec"]["containers"][0]
    assert len(jobs) == 1 and own["workingDir"] == str(ROOT) and own["resources"]["requests"] == {"cpu": "1", "memory": "16000Mi"} and own["resources"]["limits"]["nvidia.com/gpu"] == "0"
    assert jobs[0]["spec"]["activeDeadlineSeconds"] == 240 * 60 and jobs[0]["metadata"]["annotations"] == {"cgsaliency/disk": "1000 MB"}


def test_a_cluster_that_refuses_says_so(tmp_path):
    done = snakemake("--profile", "profiles/generic", "--retries", "0", "--cluster-generic-submit-cmd", "false", *wanted(tmp_path)[:1], *told(tmp_path), timeout=120)
    assert done.returncode and "false" in done.stderr and not any(Path(path).exists() for path in wanted(tmp_path))
