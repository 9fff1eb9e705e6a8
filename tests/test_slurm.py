"""The Slurm profile on a real Slurm: a cluster of this machine alone, with a controller, a node and munge of its own.

The node says that it has 16 cores, 200 GB and 2 GPUs, so that it takes jobs of scale paper;
nothing holds jobs to what they asked for.
"""
import getpass, os, re, shutil, signal, socket, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
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
        names |= dict(controller_port=controller_port, node_port=node_port)
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**names))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")      # any two devices
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        # Snakemake's plugin removes SLURM_CONF before it calls srun: on a cluster, Slurm knows where it is configured.
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
        "Return how `make reproduce PROFILE=slurm` ended; it asks squeue, often: this cluster keeps no accounts."
        told = "--slurm-status-command squeue --slurm-init-seconds-before-status-checks 2 --latency-wait 20 --retries 0"
        told += f" --slurm-logdir {self.folder}/jobs"      # named by the numbers of jobs
        given = [f"SCALE={scale}", f"REPORTS={folder}/reports", f"ARTIFACTS={folder}/artifacts", *arguments]
        given += ["PROFILE=slurm", f"PYTHON={sys.executable}", f"ARGS={told} {targets}"]
        words = ["make", "--silent", "reproducing", *given]
        piped = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        running = subprocess.Popen(words, cwd=ROOT, env=self.environment, start_new_session=True, **piped)
        try:
            printed, _ = running.communicate(timeout=900)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)      # make alone would leave Snakemake behind
            print(running.communicate()[0][-3000:], self.jobs())
            raise
        return subprocess.CompletedProcess(words, running.returncode, printed)

    def _daemon(self, *words: str) -> None:
        words = (shutil.which(words[0], path=self.environment["PATH"]), *words[1:])
        with (self.folder / f"{Path(words[0]).name}.out").open("w") as out:
            daemon = subprocess.Popen(words, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        self.daemons.append(daemon)

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


GPU_SECTION, FIGURES = "cgvs/backbone", ("ebr/figure3", "ebr/figure4")     # the figures need nothing of others


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory) -> dict[str, tuple[subprocess.CompletedProcess, Path]]:
    """Two runs side by side, and where they wrote: at scale smoke two figures,
    at scale paper a training on a GPU, which finds an empty folder of data and fails."""
    folders = {scale: tmp_path_factory.mktemp(scale) for scale in ("smoke", "paper")}
    (folders["paper"] / "data").mkdir()
    figures = " ".join(f"{folders['smoke']}/reports/smoke/{section}.ipynb" for section in FIGURES)
    training = f"{folders['paper']}/artifacts/paper/{GPU_SECTION}.json"
    with ThreadPoolExecutor(2) as pool:
        smoke = pool.submit(cluster.reproduce, folders["smoke"], "smoke", figures)
        paper = pool.submit(cluster.reproduce, folders["paper"], "paper", training, f"DATA={folders['paper']}/data")
        return {"smoke": (smoke.result(), folders["smoke"]), "paper": (paper.result(), folders["paper"])}


def test_notebooks_run_as_jobs(cluster, runs):
    done, folder = runs["smoke"]
    assert done.returncode == 0, done.stdout[-3000:] + str(cluster.jobs())
    jobs = cluster.jobs()
    for section in FIGURES:
        assert '"execution_count"' in (folder / f"reports/smoke/{section}.ipynb").read_text()
        job = jobs[section.replace("/", "_")]
        asked = [job[name] for name in ("JobState", "TimeLimit", "MinMemoryNode", "CPUs/Task")]
        assert asked == ["COMPLETED", "04:00:00", "16000M", "1"]      # of the profile, and the scale's threads
        assert "TresPerJob" not in job and "gpu" not in job["TRES"]


def slurm_time(hours: float) -> str:
    "Return the hours as Slurm writes them."
    days, left = divmod(round(60 * hours), 24 * 60)
    return f"{days}-" * bool(days) + f"{left // 60:02}:{left % 60:02}:00"


def mebibytes(text: str) -> float:
    "Return the MiB of what Slurm writes as 16000M or 62.50G."
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def test_gpu_memory_time_and_cores_are_asked_for_as_planned(cluster, runs):
    job = cluster.jobs()[GPU_SECTION.replace("/", "_")]
    plan, scale = (load_scale(ROOT / f"nbs/papers/{folder}/paper.yaml") for folder in ("plans", "scales"))
    asked = plan["all"] | plan[GPU_SECTION]
    assert asked["gpu"] == 1 and job["TresPerJob"] in ("gres:gpu:1", "gres/gpu:1")
    assert job["TimeLimit"] == slurm_time(asked["hours"])
    assert mebibytes(job["MinMemoryNode"]) == pytest.approx(1024 * asked["memory_gib"], rel=0.001)
    assert int(job["CPUs/Task"]) == (scale["all"] | scale[GPU_SECTION])["threads"]


def test_a_job_that_fails_is_told(cluster, runs):
    done, folder = runs["paper"]
    assert cluster.jobs()[GPU_SECTION.replace("/", "_")]["JobState"] == "FAILED"
    assert done.returncode != 0 and "Error in rule cgvs_backbone" in done.stdout
    assert (folder / f"reports/paper/{GPU_SECTION}.failed.ipynb").is_file()
