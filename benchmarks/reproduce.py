"""Measure `make reproduce`: `python benchmarks/reproduce.py [--scale NAME] [--data FOLDER] [--weights none]`.

Time, peak memory of all its processes together, time to the first table, and time, memory and disk of each notebook.
Writes into reports/ and artifacts/ of the project, which must not contain the scale yet. With `--weights none`
everything is trained; these rows have names of their own. `--record` runs nothing and records the finished notebooks
of a run, also of one that was stopped and continued; with `--since`, the time of its beginning, its duration as well.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil

from cgsaliency.reproduce.rehearsal import notebook_costs
from cgsaliency.reproduce.scale_config import load_scale
from measure import write_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
PAPERS = ("cgvs", "ebr", "aoa")
Row = tuple[str, float, str, str]


def memory_of(processes: set[psutil.Process]) -> int:
    "Return the memory of the processes together, bytes; pages that several of them share count once."
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.uss)  # Linux alone has the share of each process
        except psutil.Error:  # it has ended
            pass
    return total


def run(scale: str, data: str, weights: str) -> tuple[float, float]:
    "Run `make reproduce`; return its seconds and the peak memory of all its processes in GiB."
    start, peak = time.monotonic(), 0
    command = ["make", "reproduce", f"SCALE={scale}", f"DATA={data}", f"WEIGHTS={weights}"]
    running = subprocess.Popen(command, cwd=ROOT)
    process, processes = psutil.Process(running.pid), set()
    while running.poll() is None:
        processes = {member for member in processes if member.is_running()}  # also those whose parent has ended
        processes |= {process, *process.children(recursive=True)}
        peak = max(peak, memory_of(processes))
        time.sleep(2)
    if running.returncode:
        sys.exit(running.returncode)
    return time.monotonic() - start, peak / 2**30


def first_table(reports: Path, start: float) -> tuple[str, float]:
    "Return the name of the first table that was written, and the seconds until then."
    tables = {path: path.stat().st_mtime - start for path in reports.glob("*/table*.csv") if ".claims" not in path.name}
    first = min(tables, key=tables.__getitem__)
    return first.relative_to(reports).with_suffix("").as_posix(), tables[first]


def duration(label: str, reports: Path, start: float, seconds: float) -> list[Row]:
    "Return the duration of a run and the time to its first table."
    table, table_seconds = first_table(reports, start)
    return [
        (f"{label}: make reproduce from nothing, after the installation", round(seconds), "s", ""),
        (f"{label}: until the first table stands ({table})", round(table_seconds), "s", ""),
    ]


def by_paper(label: str, rows: list[Row]) -> list[Row]:
    "Return the peak memory and the total seconds of the notebooks of each paper."
    summary = []
    for paper in PAPERS:
        paper_rows = [(name, value, unit) for name, value, unit, _ in rows if name.startswith(f"{label}: {paper}/")]
        memory = max((value for name, value, _ in paper_rows if name.endswith(", largest memory")), default=0.0)
        seconds = sum(
            value for name, value, unit in paper_rows if unit == "s" and not name.endswith(", processor time")
        )
        summary += [
            (f"{label}: largest memory of a notebook of {paper}", memory, "GiB", ""),
            (f"{label}: all notebooks of {paper}, one after the other", round(seconds), "s", ""),
        ]
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="toybox")
    parser.add_argument("--data", default="")
    parser.add_argument(
        "--weights", default="weights", help="folder of the weights that are taken; none: train everything"
    )
    parser.add_argument("--record", action="store_true", help="run nothing; record the finished notebooks")
    parser.add_argument("--since", type=float, help="with --record: when the run began, seconds since 1970")
    args = parser.parse_args()
    scale, machine = args.scale, f"{platform.machine()} CPU, {os.cpu_count()} cores"
    label = f"{scale}, WEIGHTS=none" if args.weights == "none" else scale  # of the rows
    reports, artifacts = (ROOT / folder / scale for folder in ("reports", "artifacts"))
    run_rows: list[Row] = []
    if not args.record:
        existing = [path for path in (reports, artifacts) if path.exists()]
        if existing:
            sys.exit(f"{existing[0]} exists already; move it away to measure a complete run")
        start = time.time()
        total_seconds, memory = run(scale, args.data, args.weights)
        run_rows = [
            *duration(label, reports, start, total_seconds),
            (f"{label}: largest memory of all processes", round(memory, 2), "GiB", ""),
        ]
    elif args.since:
        last = max(path.stat().st_mtime for path in reports.rglob("*.run.json"))
        run_rows = duration(label, reports, args.since, last - args.since)
    sections = [name for name in load_scale(scale) if name != "all"]
    if args.record:
        sections = [name for name in sections if (reports / f"{name}.run.json").is_file()]
    rows = notebook_costs(reports, artifacts, sections, label)
    disk = [row for row in rows if row[0] == f"{label}: disk of reports and artifacts"]
    if run_rows:
        run_rows += disk + by_paper(label, rows)
        write_rows(RESULTS / "reproduce.csv", machine, run_rows, prefix=f"{label}:")
    notebook_rows = [row for row in rows if "notebook" not in row[0] and row not in disk]
    write_rows(RESULTS / "notebooks.csv", machine, notebook_rows, prefix=f"{label}:")


if __name__ == "__main__":
    main()
