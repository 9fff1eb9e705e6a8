"""What `make reproduce` costs from nothing: time and the largest memory of all its processes together. `python benchmarks/reproduce.py`.

Writes into reports/ and artifacts/ of the project, which must not hold the scale yet.
"""
import argparse, os, platform, subprocess, sys, time
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
    start, peak = time.monotonic(), 0
    running = subprocess.Popen(["make", "reproduce", f"SCALE={given.scale}", f"DATA={given.data}"], cwd=ROOT)
    process = psutil.Process(running.pid)
    while running.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(3)      # looking through gigabytes takes its time too
    if running.returncode: sys.exit(running.returncode)
    write_rows(ROOT / "benchmarks/results/reproduce.csv", f"{platform.machine()} CPU, {os.cpu_count()} cores", [
        (f"{given.scale}: make reproduce from nothing, after the installation", round(time.monotonic() - start), "s", ""),
        (f"{given.scale}: largest memory of all processes", round(peak / 2 ** 30, 2), "GiB", "")], prefix=f"{given.scale}:")
