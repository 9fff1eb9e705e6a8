"""Kill a run at twenty random moments, fill its disk once, and compare its results with those of an undisturbed run:
`python benchmarks/resume_after_kill.py [--scale smoke] [--kills 20]`.

Half of the kills end every process of the run, as a power failure does; half end only `make`, Snakemake and the
runners, and the kernels must end by themselves. Both runs use the same folder, one after the other, because notebooks
contain their paths. The full disk is a small one in memory, which only root can mount; without it, this part is
skipped with a message."""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from measure import write_rows

ROOT = Path(__file__).resolve().parent.parent
TIMING_FILES = (".run.json", ".seconds.json")  # suffixes of files with times
SETTLED = 5.0  # seconds after which Snakemake has noticed that a notebook is complete


def start_run(scale, folder, log, sections=()):
    "Start `make reproduce` and return its process."
    reports = " ".join(f"{folder}/reports/{scale}/{section}.ipynb" for section in sections)
    targets = [f"ARGS={reports}"] if sections else []
    return subprocess.Popen(
        ["make", "reproduce", f"SCALE={scale}", f"REPORTS={folder}/reports", f"ARTIFACTS={folder}/artifacts", *targets],
        cwd=ROOT,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill(process, with_kernels):
    "Kill the process and its children."
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if not with_kernels:
        family = [child for child in family if "ipykernel" not in " ".join(_command_line(child))]
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass
    process.wait()


def _command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def finished_reports(folder, scale):
    "Return the modification time of each finished notebook."
    return {
        path: path.stat().st_mtime_ns
        for path in (folder / "reports" / scale).rglob("*.ipynb")
        if not path.name.startswith(".") and not path.name.endswith(".failed.ipynb")
    }


def digests(folder):
    "Return the digest of each file, without files with times and locks."
    files = (
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(TIMING_FILES) and not path.name.endswith(".lock")
    )
    return {path.relative_to(folder).as_posix(): hashlib.sha256(stable_bytes(path)).hexdigest() for path in files}


def stable_bytes(path):
    "Return the bytes of a file; of the video index without modification times, in the order of the paths."
    if path.name != "videos.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps(sorted(({**row, "changed": None} for row in rows), key=lambda row: row["path"])).encode()


def mount_small_disk(folder, size):
    "Mount a disk of that many MiB in memory and return whether this is possible."
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--between", type=float, nargs=2, default=(10.0, 50.0), help="seconds from a start to the next kill"
    )
    parser.add_argument(
        "--sections",
        nargs="*",
        default=[],
        help="notebooks to run, with those that they depend on; all of the scale by default",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, work = random.Random(args.seed), Path(tempfile.mkdtemp(prefix="killed."))
    folder, undisturbed, log = work / "run", work / "undisturbed", (work / "log").open("w")
    folder.mkdir()
    print(f"log: {log.name}", flush=True)
    if start_run(args.scale, folder, log, args.sections).wait():
        sys.exit(f"the undisturbed run failed: {log.name}")
    shutil.copytree(folder, undisturbed)
    shutil.rmtree(folder)
    folder.mkdir()

    total_size = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file()) >> 20
    full = mount_small_disk(folder, total_size // 3)
    finished, repeated = {}, set()

    def update(settled):
        "Note which notebooks are complete, and which of them ran again."
        current = finished_reports(folder, args.scale)
        repeated.update(path for path, modified in finished.items() if current.get(path) != modified)
        latest = time.time_ns() - settled * 1e9
        finished.update({path: modified for path, modified in current.items() if modified < latest})

    if full:
        code = start_run(args.scale, folder, log, args.sections).wait()
        num_complete = len(finished_reports(folder, args.scale))
        print(f"full disk of {total_size // 3} MiB: exit code {code}, {num_complete} notebooks complete", flush=True)
        if not code:
            sys.exit("no error: the disk is full")
        update(0)
        subprocess.run(["mount", "-o", "remount,size=4g", str(folder)], check=True)
    kills = 0
    while kills < args.kills:
        process = start_run(args.scale, folder, log, args.sections)
        try:
            process.wait(timeout=rng.uniform(*args.between))
        except subprocess.TimeoutExpired:
            pass
        else:
            break  # it ended before it could be killed
        update(SETTLED)
        kill(process, with_kernels=kills % 2 == 0)
        kills += 1
        update(1e9)  # complete notebooks must remain
        print(f"kill {kills}: {len(finished_reports(folder, args.scale))} notebooks complete", flush=True)
    code = start_run(args.scale, folder, log, args.sections).wait()
    update(0)
    if code:
        sys.exit(f"the run after {kills} kills failed: {log.name}")
    first, second = digests(undisturbed), digests(folder)
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    for name in different:
        if name in first and name in second:
            print(f"differs: {name}")
        else:
            print(f"only {'undisturbed' if name in first else 'disturbed'}: {name}")
    for path in sorted(repeated):
        print(f"ran again: {path.relative_to(folder)}")
    if full:
        subprocess.run(["umount", "-l", str(folder)])
    description = " ".join(args.sections) or "all notebooks"
    label, machine = f"{args.scale}, {description}", f"{platform.machine()} CPU, {os.cpu_count()} cores"
    rows = [
        (f"{label}: kills at random moments", kills, "kills", ""),
        (f"{label}: notebooks", len(finished_reports(undisturbed, args.scale)), "notebooks", ""),
        (f"{label}: full disks", int(full), "times", "one of a third of what the run leaves"),
        (f"{label}: notebooks that were complete and ran again", len(repeated), "notebooks", ""),
        (f"{label}: files of reports and artifacts", len(first), "files", ""),
        (f"{label}: of these not byte-equal to the undisturbed run's", len(different), "files", ""),
    ]
    write_rows(ROOT / "benchmarks/results/resume_after_kill.csv", machine, rows, prefix=f"{label}:")
    if different or repeated:
        sys.exit(1)
    shutil.rmtree(work, ignore_errors=True)
