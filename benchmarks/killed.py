"""Kill a run at twenty random moments, fill its disk once, and compare what it leaves with what an undisturbed run leaves: `python benchmarks/killed.py [--scale smoke] [--kills 20]`.

Half of the kills take every process of the run, as a machine that loses power does; half take `make`, Snakemake and the runners alone, and leave the kernels to notice. Both runs use the same folder,
one after the other, since notebooks say where they read and write. The disk is a small one in memory where this may be mounted (by root), else its fault is left out, and that is said.
"""
import argparse, hashlib, json, os, platform, random, shutil, subprocess, sys, tempfile, time
from pathlib import Path

import psutil

from measure import write_rows

ROOT = Path(__file__).resolve().parent.parent
TOLD = (".run.json", ".seconds.json")      # what says how long something took
SETTLED = 5.0              # seconds after which Snakemake has noticed that a notebook is whole


def started(scale, folder, log, sections=()):
    wanted = [f"ARGS={' '.join(f'{folder}/reports/{scale}/{section}.ipynb' for section in sections)}"] if sections else []
    return subprocess.Popen(["make", "reproduce", f"SCALE={scale}", f"REPORTS={folder}/reports", f"ARTIFACTS={folder}/artifacts", *wanted], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def kill(process, all_of_it):
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    if not all_of_it: family = [one for one in family if "ipykernel" not in " ".join(_words(one))]
    for one in family:
        try: one.kill()
        except psutil.NoSuchProcess: pass
    process.wait()


def _words(process):
    try: return process.cmdline()
    except psutil.Error: return []


def pages(folder, scale): return {path: path.stat().st_mtime_ns for path in (folder / "reports" / scale).rglob("*.ipynb") if not path.name.startswith(".") and not path.name.endswith(".failed.ipynb")}


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(TOLD) and not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(bytes_of(path)).hexdigest() for path in files}


def bytes_of(path):
    "Return what the file holds; of the index of the videos what stays, in order: it says when each video was written."
    if path.name != "videos.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps(sorted(({**row, "changed": None} for row in rows), key=lambda row: row["path"])).encode()


def mounted(folder, size): return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)], capture_output=True).returncode == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="smoke")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, nargs=2, default=(10.0, 50.0), help="seconds from a start to the next kill")
    parser.add_argument("--sections", nargs="*", default=[], help="notebooks to be made, with all that they read; all of the scale by default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, work = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="killed."))
    folder, kept, log = work / "run", work / "undisturbed", (work / "log").open("w")
    folder.mkdir()
    print(f"log: {log.name}", flush=True)
    if started(given.scale, folder, log, given.sections).wait(): sys.exit(f"the undisturbed run failed: {log.name}")
    shutil.copytree(folder, kept)
    shutil.rmtree(folder); folder.mkdir()

    whole = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) >> 20
    full = mounted(folder, whole // 3)
    finished, again = {}, set()
    def look(settled):
        "Notes which notebooks are whole, and which of them were done again."
        now = pages(folder, given.scale)
        again.update(path for path, when in finished.items() if now.get(path) != when)
        finished.update({path: when for path, when in now.items() if when < time.time_ns() - settled * 1e9})
    if full:
        code = started(given.scale, folder, log, given.sections).wait()
        print(f"full disk of {whole // 3} MiB: exit code {code}, {len(pages(folder, given.scale))} notebooks whole", flush=True)
        if not code: sys.exit("a run on a full disk claims to have succeeded")
        look(0)
        subprocess.run(["mount", "-o", "remount,size=4g", str(folder)], check=True)
    kills = 0
    while kills < given.kills:
        process = started(given.scale, folder, log, given.sections)
        try: process.wait(timeout=draw.uniform(*given.between))
        except subprocess.TimeoutExpired: pass
        else: break                                     # it came to its end before it could be killed
        look(SETTLED)
        kill(process, all_of_it=kills % 2 == 0)
        kills += 1
        look(1e9)                                       # what was whole must still be
        print(f"kill {kills}: {len(pages(folder, given.scale))} notebooks whole", flush=True)
    code = started(given.scale, folder, log, given.sections).wait()
    look(0)
    if code: sys.exit(f"the run after {kills} kills failed: {log.name}")
    first, second = content(kept), content(folder)
    other = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    for name in other: print(f"{'differs' if name in first and name in second else 'only undisturbed' if name in first else 'only disturbed'}: {name}")
    for path in sorted(again): print(f"done again: {path.relative_to(folder)}")
    if full: subprocess.run(["umount", "-l", str(folder)])
    what = " ".join(given.sections) or "all notebooks"
    label, where = f"{given.scale}, {what}", f"{platform.machine()} CPU, {os.cpu_count()} cores"
    rows = [
        (f"{label}: kills at random moments", kills, "kills", ""),
        (f"{label}: notebooks", len(pages(kept, given.scale)), "notebooks", ""),
        (f"{label}: full disks", int(full), "times", "one of a third of what the run leaves"),
        (f"{label}: notebooks that were whole and ran again", len(again), "notebooks", ""),
        (f"{label}: files of reports and artifacts", len(first), "files", ""),
        (f"{label}: of these not byte-equal to the undisturbed run's", len(other), "files", ""),
    ]
    write_rows(ROOT / "benchmarks/results/killed.csv", where, rows, prefix=f"{label}:")
    if other or again: sys.exit(1)
    shutil.rmtree(work, ignore_errors=True)
