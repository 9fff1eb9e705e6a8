"""The Slurm profile on a real Slurm cluster on this machine: a controller, a node and munge.

The node declares 16 cores, 200 GB and 2 GPUs, so that it accepts jobs of scale paper; limits are not enforced.
"""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cgsaliency.reproduce.scale_config import load_plan, load_scale

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt install slurmctld slurmd munge"),
]

CONFIGURATION = """
ClusterName=cgsaliency
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=200000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    "Return unused ports."
    sockets = [socket.socket() for _ in range(count)]
    for unused_socket in sockets:
        unused_socket.bind(("127.0.0.1", 0))
    ports = [unused_socket.getsockname()[1] for unused_socket in sockets]
    for unused_socket in sockets:
        unused_socket.close()
    return ports


class Cluster:
    "The daemons of a Slurm cluster in a folder, and its commands."

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []
        self.environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf"}
        self.environment["PATH"] = f"{folder}/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir()
        controller_port, node_port = free_ports(2)
        names = dict(host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=folder)
        names |= dict(controller_port=controller_port, node_port=node_port)
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**names))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")  # any two devices
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        # Snakemake's plugin removes SLURM_CONF before it calls srun: on a cluster, Slurm knows where it is configured.
        srun = folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def start(self) -> None:
        "Start the daemons. Raises AssertionError with their logs where the node does not come up within 20 seconds."
        file_options = {name: f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "seed", "log")}
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *file_options.values()
        )
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        self._daemon("slurmd", "-D", "-f", f"{self.folder}/slurm.conf")
        self._wait(lambda: self.command("sinfo", "--noheader", "--format=%T").strip() == "idle")

    def stop(self) -> None:
        "Cancel jobs, and end the daemons in reverse order."
        if len(self.daemons) == 3:
            self.command("scancel", f"--user={getpass.getuser()}")
            try:
                self._wait(lambda: not self.command("squeue", "--noheader").strip())
            except AssertionError as error:
                print(error)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *arguments: str) -> str:
        "Run a command of Slurm and return its output."
        return subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        "Return the output of `scontrol show job` by rule; of several jobs of a rule, that of the last one."
        jobs = {}
        for text in self.command("scontrol", "--oneliner", "show", "job").splitlines():
            job = dict(re.findall(r"(\S+?)=(\S*)", text))
            jobs[job["Comment"].removeprefix("rule_")] = job
        return jobs

    def reproduce(self, folder: Path, scale: str, targets: str, *arguments: str) -> subprocess.CompletedProcess:
        "Run `make reproduce PROFILE=slurm`; it polls squeue often, because this cluster has no accounting."
        snakemake_options = (
            "--slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 --latency-wait 20 --retries 0"
        )
        snakemake_options += f" --slurm-logdir {self.folder}/jobs"  # files named by the ids of jobs
        make_variables = [f"SCALE={scale}", f"REPORTS={folder}/reports", f"ARTIFACTS={folder}/artifacts", *arguments]
        make_variables += ["PROFILE=slurm", f"PYTHON={sys.executable}", f"ARGS={snakemake_options} {targets}"]
        command = ["make", "--silent", "run-reproduce", *make_variables]
        output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment, start_new_session=True, **output)
        try:
            printed, _ = process.communicate(timeout=900)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # otherwise Snakemake would go on
            print(process.communicate()[0][-3000:], self.jobs())
            raise
        return subprocess.CompletedProcess(command, process.returncode, printed)

    def _daemon(self, *command: str) -> None:
        command = (shutil.which(command[0], path=self.environment["PATH"]), *command[1:])
        with (self.folder / f"{Path(command[0]).name}.out").open("w") as out:
            daemon = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        self.daemons.append(daemon)

    def _wait(self, ready, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            logs = [path for pattern in ("*.out", "*.log") for path in sorted(self.folder.glob(pattern))]
            assert time.monotonic() < deadline, "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in logs)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # munge's socket must be within reach of all users
        cluster = Cluster(folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


GPU_SECTION, FIGURES = "cgvs/backbone", ("ebr/figure3", "ebr/figure4")  # the figures need no other notebook


@pytest.fixture(scope="module")
def completed_runs(cluster, tmp_path_factory) -> dict[str, tuple[subprocess.CompletedProcess, Path]]:
    """Two runs at the same time, and their folders: at scale smoke two figures; at scale paper a training on a GPU,
    which fails because the data folder is empty."""
    folders = {scale: tmp_path_factory.mktemp(scale) for scale in ("smoke", "paper")}
    (folders["paper"] / "data").mkdir()
    figures = " ".join(f"{folders['smoke']}/reports/smoke/{section}.ipynb" for section in FIGURES)
    training = f"{folders['paper']}/artifacts/paper/{GPU_SECTION}.json"
    with ThreadPoolExecutor(2) as pool:
        smoke = pool.submit(cluster.reproduce, folders["smoke"], "smoke", figures)
        paper = pool.submit(cluster.reproduce, folders["paper"], "paper", training, f"DATA={folders['paper']}/data")
        return {"smoke": (smoke.result(), folders["smoke"]), "paper": (paper.result(), folders["paper"])}


@pytest.mark.slow
def test_notebooks_run_as_jobs(cluster, completed_runs):
    completed, folder = completed_runs["smoke"]
    assert completed.returncode == 0, completed.stdout[-3000:] + str(cluster.jobs())
    jobs = cluster.jobs()
    for section in FIGURES:
        assert '"execution_count"' in (folder / f"reports/smoke/{section}.ipynb").read_text()
        job = jobs[section.replace("/", "_")]
        requested = [job[name] for name in ("JobState", "TimeLimit", "MinMemoryNode", "CPUs/Task")]
        assert requested == ["COMPLETED", "04:00:00", "16000M", "1"]  # of the profile, and the scale's threads
        assert "TresPerJob" not in job and "gpu" not in job["TRES"]


def slurm_time(hours: float) -> str:
    "Return the hours as Slurm writes them."
    days, minutes = divmod(round(60 * hours), 24 * 60)
    return f"{days}-" * bool(days) + f"{minutes // 60:02}:{minutes % 60:02}:00"


def mebibytes(text: str) -> float:
    "Return the MiB of what Slurm writes as 16000M or 62.50G."
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


@pytest.mark.slow
def test_jobs_request_the_planned_gpu_memory_time_and_cores(cluster, completed_runs):
    job = cluster.jobs()[GPU_SECTION.replace("/", "_")]
    plan, scale = load_plan("paper"), load_scale("paper")
    planned = plan["all"] | plan[GPU_SECTION]
    assert planned["gpu"] == 1 and job["TresPerJob"] in ("gres:gpu:1", "gres/gpu:1")
    assert job["TimeLimit"] == slurm_time(planned["hours"])
    assert mebibytes(job["MinMemoryNode"]) == pytest.approx(1024 * planned["memory_gib"], rel=0.001)
    assert int(job["CPUs/Task"]) == (scale["all"] | scale[GPU_SECTION])["threads"]


@pytest.mark.slow
def test_failed_jobs_are_reported(cluster, completed_runs):
    completed, folder = completed_runs["paper"]
    assert cluster.jobs()[GPU_SECTION.replace("/", "_")]["JobState"] == "FAILED"
    assert completed.returncode != 0 and "Error in rule cgvs_backbone" in completed.stdout
    assert (folder / f"reports/paper/{GPU_SECTION}.failed.ipynb").is_file()
