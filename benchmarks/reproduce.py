"""What `make reproduce` costs from nothing: time and the largest memory of all its processes together, when the first table stands, and the time of each notebook. `python benchmarks/reproduce.py`.

Writes into reports/ and artifacts/ of the project, which must not hold the scale yet.
"""
import argparse, json, os, platform, subprocess, sys, time
from pathlib import Path

import psutil

from measure import write_rows

ROOT = Path(__file__).resolve().parent.parent


def memory_of(process: psutil.Process) -> int:
    "Bytes of the process and its children that nobody shares."
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try: total += one.memory_full_info().uss
        except psutil.Error: pass
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="toybox")
    parser.add_argument("--data", default="")
    given = parser.parse_args()
    there = [path for path in (ROOT / "reports" / given.scale, ROOT / "artifacts" / given.scale) if path.exists()]
    if there: sys.exit(f"{there[0]}: stands there already; move it away to measure a run from nothing")
    start, began, peak = time.monotonic(), time.time(), 0
    running = subprocess.Popen(["make", "reproduce", f"SCALE={given.scale}", f"DATA={given.data}"], cwd=ROOT)
    process = psutil.Process(running.pid)
    while running.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(10)     # looking through gigabytes takes its time too
    if running.returncode: sys.exit(running.returncode)
    took, where = round(time.monotonic() - start), f"{platform.machine()} CPU, {os.cpu_count()} cores"
    reports = ROOT / "reports" / given.scale
    tables = {path: path.stat().st_mtime - began for path in reports.glob("*/table*.csv") if ".claims" not in path.name}
    first = min(tables, key=tables.get)
    runs = {path.relative_to(reports).as_posix().removesuffix(".run.json"): json.loads(path.read_text()) for path in sorted(reports.rglob("*.run.json"))}
    write_rows(ROOT / "benchmarks/results/reproduce.csv", where, [
        (f"{given.scale}: make reproduce from nothing, after the installation", took, "s", ""),
        (f"{given.scale}: until the first table stands ({first.relative_to(reports).with_suffix('')})", round(tables[first]), "s", ""),
        (f"{given.scale}: largest memory of all processes", round(peak / 2 ** 30, 2), "GiB", ""),
        (f"{given.scale}: disk of reports and artifacts", round(sum(path.stat().st_size for folder in (reports, ROOT / "artifacts" / given.scale) for path in folder.rglob("*") if path.is_file()) / 2 ** 30, 2), "GiB", ""),
        *((f"{given.scale}: largest memory of a notebook of {paper}", max((run["memory_gib"] for name, run in runs.items() if name.startswith(f"{paper}/")), default=0.0), "GiB", "") for paper in ("cgvs", "ebr", "aoa")),
        *((f"{given.scale}: all notebooks of {paper}, one after the other", round(sum(run["seconds"] for name, run in runs.items() if name.startswith(f"{paper}/"))), "s", "") for paper in ("cgvs", "ebr", "aoa"))], prefix=f"{given.scale}:")
    write_rows(ROOT / "benchmarks/results/notebooks.csv", where, [(f"{given.scale}: {name}", run["seconds"], "s", "") for name, run in runs.items()], prefix=f"{given.scale}:")
