"""What `make reproduce` costs from nothing: time and the largest memory of all its processes together. `python benchmarks/reproduce.py`.

Writes into reports/ and artifacts/ of the project, which must not hold the scale yet.
"""
import argparse, csv, datetime, os, platform, subprocess, sys, time
from pathlib import Path

import psutil

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
    start, peak = time.monotonic(), 0
    running = subprocess.Popen(["make", "reproduce", f"SCALE={given.scale}", f"DATA={given.data}"], cwd=ROOT)
    process = psutil.Process(running.pid)
    while running.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(0.5)
    if running.returncode: sys.exit(running.returncode)
    where, today = f"{platform.machine()} CPU, {os.cpu_count()} cores", datetime.date.today().isoformat()
    out = ROOT / "benchmarks/results/reproduce.csv"
    kept = [row for row in csv.reader(out.open()) if row[0] != "name" and not (row[0].startswith(f"{given.scale}:") and row[4] == where)] if out.is_file() else []
    rows = [(f"{given.scale}: make reproduce from nothing, after the installation", f"{time.monotonic() - start:.0f}", "s", "", where, today),
            (f"{given.scale}: largest memory of all processes", f"{peak / 2 ** 30:.2f}", "GiB", "", where, today)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file: csv.writer(file, lineterminator="\n").writerows([("name", "value", "unit", "relative_to", "machine", "date"), *kept, *rows])
    for row in rows: print("  ".join(row[:3]))
