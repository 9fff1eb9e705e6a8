"""The Slurm profile on a real Slurm: a cluster of this machine alone, with a controller, a node and munge of its own.

The node says that it has 16 cores, 200 GB and 2 GPUs, so that it takes jobs of scale paper; nothing holds jobs to what they asked for.
"""
import getpass, os, re, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path

import pytest

from cgsaliency.core.scales import load_scale

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt install slurmctld slurmd munge")

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
    "Return ports that nobody listens on."
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
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
        (folder / "slurm.conf").write_text(CONFIGURATION.format(controller_port=controller_port, node_port=node_port, **names))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")      # any two devices
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        # The executor's plugin removes SLURM_CONF before it calls srun: on a cluster the configuration lies where Slurm looks for it.
        srun = folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def start(self) -> None:
        "Start the daemons. Raises AssertionError with their logs where the node does not come up within 20 seconds."
        own = {name: f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "seed", "log")}
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *own.values())
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._daemon("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        self._daemon("slurmd", "-D", "-f", f"{self.folder}/slurm.conf")
        self._wait(lambda: self.command("sinfo", "--noheader", "--format=%T").strip() == "idle")

    def stop(self) -> None:
        "Cancel what still runs, and end the daemons, the last one first."
        if len(self.daemons) == 3:
            self.command("scancel", f"--user={getpass.getuser()}")
            try:
                self._wait(lambda: not self.command("squeue", "--noheader").strip())
            except AssertionError as left:
                print(left)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *words: str) -> str:
        "Return what a command of Slurm prints."
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def jobs(self) -> dict[str, dict[str, str]]:
        "Return what `scontrol show job` says of each job, by the rule that it ran; of several, of the last one."
        found = {}
        for text in self.command("scontrol", "--oneliner", "show", "job").splitlines():
            job = dict(re.findall(r"(\S+?)=(\S*)", text))
            found[job["Comment"].removeprefix("rule_")] = job
        return found

    def reproduce(self, folder: Path, scale: str, targets: str, *arguments: str) -> subprocess.CompletedProcess:
        "Return what `make reproduce PROFILE=slurm` left; it is told to ask squeue, often, since this cluster keeps no accounts."
        told = "--slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 --latency-wait 20 --retries 0"
        given = [f"SCALE={scale}", f"REPORTS={folder}/reports", f"ARTIFACTS={folder}/artifacts", f"PYTHON={sys.executable}"]
        words = ["make", "--silent", "reproducing", "PROFILE=slurm", *given, *arguments, f"ARGS={told} {targets}"]
        running = subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, start_new_session=True)
        try:
            printed, _ = running.communicate(timeout=300)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)      # make alone would leave Snakemake behind
            raise
        return subprocess.CompletedProcess(words, running.returncode, printed)

    def _daemon(self, *words: str) -> None:
        words = (shutil.which(words[0], path=self.environment["PATH"]), *words[1:])
        with (self.folder / f"{Path(words[0]).name}.out").open("w") as out:
            self.daemons.append(subprocess.Popen(words, env=self.environment, stdout=out, stderr=out, start_new_session=True))

    def _wait(self, ready, seconds: float = 20) -> None:
        last = time.monotonic() + seconds
        while not ready():
            logs = [path for pattern in ("*.out", "*.log") for path in sorted(self.folder.glob(pattern))]
            assert time.monotonic() < last, "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in logs)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)      # munge's socket must be within reach of all users
        cluster = Cluster(folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def test_notebooks_run_as_jobs(cluster, tmp_path):
    wanted = [f"{tmp_path}/reports/smoke/ebr/{name}.ipynb" for name in ("figure3", "figure4")]     # they need nothing of others
    done = cluster.reproduce(tmp_path, "smoke", " ".join(wanted))
    assert done.returncode == 0, done.stdout[-3000:] + str(cluster.jobs())
    assert all('"execution_count"' in Path(path).read_text() for path in wanted)
    jobs = cluster.jobs()
    for rule in ("ebr_figure3", "ebr_figure4"):
        job = jobs[rule]
        assert (job["JobState"], job["TimeLimit"], job["MinMemoryNode"], job["CPUs/Task"]) == ("COMPLETED", "04:00:00", "16000M", "1")
        assert "TresPerJob" not in job and "gpu" not in job["TRES"]


def slurm_time(hours: float) -> str:
    "Return the hours as Slurm writes them."
    days, left = divmod(round(60 * hours), 24 * 60)
    return f"{days}-" * bool(days) + f"{left // 60:02}:{left % 60:02}:00"


def megabytes(text: str) -> float:
    "Return what Slurm writes as 16000M or 62.50G, in MB of 2²⁰ bytes."
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def test_a_gpu_and_memory_are_asked_for_as_planned_and_a_failure_is_told(cluster, tmp_path):
    (tmp_path / "data").mkdir()      # empty: the notebook fails as a job
    section = "cgvs/backbone"
    done = cluster.reproduce(tmp_path, "paper", f"{tmp_path}/artifacts/paper/{section}.json", f"DATA={tmp_path}/data")
    job = cluster.jobs()["cgvs_backbone"]
    plan = load_scale(ROOT / "nbs/papers/plans/paper.yaml")
    asked = plan["all"] | plan[section]
    assert asked["gpu"] == 1 and job["TresPerJob"] in ("gres:gpu:1", "gres/gpu:1")
    assert job["TimeLimit"] == slurm_time(asked["hours"])
    assert megabytes(job["MinMemoryNode"]) == pytest.approx(1024 * asked["memory_gib"], rel=0.001)
    scale = load_scale(ROOT / "nbs/papers/scales/paper.yaml")
    assert int(job["CPUs/Task"]) == (scale["all"] | scale[section])["threads"]
    assert job["JobState"] == "FAILED" and done.returncode != 0 and "Error in rule cgvs_backbone" in done.stdout
    assert (tmp_path / "reports/paper/cgvs/backbone.failed.ipynb").is_file()
