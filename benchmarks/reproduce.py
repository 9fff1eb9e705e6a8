"""Measure what `make reproduce` takes from nothing: `python benchmarks/reproduce.py [--scale NAME] [--data FOLDER]`.

Time, the largest memory of all its processes together, when the first table stands, and time, memory and disk of each
notebook. Writes into reports/ and artifacts/ of the project, which must not hold the scale yet. `--record` runs nothing
and writes down the notebooks of a run that have ended.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cgsaliency.core.scales import load_scale
from cgsaliency.reproduce.rehearsal import run_costs
from measure import write_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
PAPERS = ("cgvs", "ebr", "aoa")
Row = tuple[str, float, str, str]


def memory_of(process: psutil.Process) -> int:
    "Return the bytes of the process and its children that nobody shares."
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().uss
        except psutil.Error:
            pass
    return total


def run(scale: str, data: str) -> tuple[float, float]:
    "Run `make reproduce`; return its seconds and the largest memory of all its processes in GiB."
    start, peak = time.monotonic(), 0
    running = subprocess.Popen(["make", "reproduce", f"SCALE={scale}", f"DATA={data}"], cwd=ROOT)
    process = psutil.Process(running.pid)
    while running.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(10)  # to look through gigabytes takes its time, too
    if running.returncode:
        sys.exit(running.returncode)
    return time.monotonic() - start, peak / 2**30


def first_table(reports: Path, began: float) -> tuple[str, float]:
    "Return the name of the table that stood first, and after how many seconds."
    tables = {path: path.stat().st_mtime - began for path in reports.glob("*/table*.csv") if ".claims" not in path.name}
    first = min(tables, key=tables.__getitem__)
    return first.relative_to(reports).with_suffix("").as_posix(), tables[first]


def by_paper(scale: str, rows: list[Row]) -> list[Row]:
    "Return for each paper the largest memory and the seconds of its notebooks."
    found = []
    for paper in PAPERS:
        own = [(name, value, unit) for name, value, unit, _ in rows if name.startswith(f"{scale}: {paper}/")]
        memory = max((value for name, value, _ in own if name.endswith(", largest memory")), default=0.0)
        seconds = sum(value for name, value, unit in own if unit == "s" and not name.endswith(", processor time"))
        found += [
            (f"{scale}: largest memory of a notebook of {paper}", memory, "GiB", ""),
            (f"{scale}: all notebooks of {paper}, one after the other", round(seconds), "s", ""),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="toybox")
    parser.add_argument("--data", default="")
    parser.add_argument("--record", action="store_true", help="run nothing; record the notebooks that have ended")
    chosen = parser.parse_args()
    scale, where = chosen.scale, f"{platform.machine()} CPU, {os.cpu_count()} cores"
    reports, artifacts = (ROOT / folder / scale for folder in ("reports", "artifacts"))
    whole: list[Row] = []
    if not chosen.record:
        there = [path for path in (reports, artifacts) if path.exists()]
        if there:
            sys.exit(f"{there[0]}: stands there already; move it away to measure a run from nothing")
        began = time.time()
        took, memory = run(scale, chosen.data)
        table, until = first_table(reports, began)
        whole = [
            (f"{scale}: make reproduce from nothing, after the installation", round(took), "s", ""),
            (f"{scale}: until the first table stands ({table})", round(until), "s", ""),
            (f"{scale}: largest memory of all processes", round(memory, 2), "GiB", ""),
        ]
    sections = [name for name in load_scale(ROOT / f"nbs/papers/scales/{scale}.yaml") if name != "all"]
    if chosen.record:
        sections = [name for name in sections if (reports / f"{name}.run.json").is_file()]
    rows = run_costs(reports, artifacts, sections, scale)
    disk = [row for row in rows if row[0] == f"{scale}: disk of reports and artifacts"]
    if whole:
        whole += disk + by_paper(scale, rows)
        write_rows(RESULTS / "reproduce.csv", where, whole, prefix=f"{scale}:")
    of_notebooks = [row for row in rows if "notebook" not in row[0] and row not in disk]
    write_rows(RESULTS / "notebooks.csv", where, of_notebooks, prefix=f"{scale}:")


if __name__ == "__main__":
    main()
