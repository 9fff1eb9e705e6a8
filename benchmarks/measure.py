"""Functions shared by the benchmarks: the machine's name, the time of a call, and the tables in results/."""

import argparse
import csv
import datetime
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from cgsaliency.core.runtime import default_device

HEADER = ("name", "value", "unit", "relative_to", "machine", "date")


def machine(device: torch.device) -> str:
    "Return the name of the device, for the tables."
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def turns(device: torch.device, repeats: int, *calls: Callable) -> list[list[float]]:
    """Return the times of each call in each of `repeats` turns, after a warm-up.

    The calls alternate, so that a temporary slowdown of the machine affects all of them."""

    def time_call(call: Callable) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for call in calls:
        time_call(call)
    return [[time_call(call) for call in calls] for _ in range(repeats)]


def seconds(device: torch.device, repeats: int, *calls: Callable) -> list[float]:
    "Return the median time of each call; the calls alternate."
    return [statistics.median(times) for times in zip(*turns(device, repeats, *calls), strict=True)]


def ratio(pairs: list[tuple[float, float]], num_samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Return the median ratio of the second to the first time over the turns, and the 95% bootstrap interval of that
    median."""
    ratios, rng = [second / first for first, second in pairs], random.Random(seed)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(num_samples))
    return statistics.median(ratios), medians[num_samples // 40], medians[-num_samples // 40 - 1]


def write_rows(
    out: Path, machine_name: str, measured: Iterable[tuple[str, int | float, str, str]], prefix: str = ""
) -> None:
    """Write rows of name, value, unit, relative_to.

    Older rows of the same machine whose names begin with the prefix are removed."""
    other_rows = []
    if out.is_file():
        for row in csv.reader(out.open()):
            if row[0] != "name" and not (row[0].startswith(prefix) and row[4] == machine_name):
                other_rows.append(row)
    today = datetime.date.today().isoformat()
    rows = [
        (name, f"{value:.4g}" if isinstance(value, float) else str(value), unit, relative, machine_name, today)
        for name, value, unit, relative in measured
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *other_rows, *rows])
    for row in rows:
        print("  ".join(row[:4]))


def main(script: str, about: str, measured: Callable[[torch.device, int], Iterable[tuple]], repeats: int = 7) -> None:
    "Run a script's measurements on the default device and write its table."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument(
        "--out", type=Path, default=(Path(script).parent / "results" / Path(script).name).with_suffix(".csv")
    )
    args = parser.parse_args()
    device = default_device()
    write_rows(args.out, machine(device), measured(device, args.repeats))
