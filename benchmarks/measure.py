"""What the benchmarks share: the machine's name, the time of a call, and the tables in results/."""
import argparse, csv, datetime, platform, random, statistics, time
from pathlib import Path
from typing import Callable, Iterable

import torch

from cgsaliency.core.run import best_device

HEADER = ("name", "value", "unit", "relative_to", "machine", "date")


def machine(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def turns(device: torch.device, repeats: int, *works: Callable) -> list[list[float]]:
    "The times of one call of each, turn by turn, after one that warms up: what slows the machine slows all of them."
    def once(work: Callable) -> float:
        if device.type == "cuda": torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda": torch.cuda.synchronize()
        return time.perf_counter() - start
    for work in works: once(work)
    return [[once(work) for work in works] for _ in range(repeats)]


def seconds(device: torch.device, repeats: int, *works: Callable) -> list[float]:
    "The median time of one call of each; they take turns."
    return [statistics.median(times) for times in zip(*turns(device, repeats, *works))]


def ratio(pairs: list[tuple[float, float]], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    "The median ratio of the second to the first over the turns, and the 95% interval of that median, from turns drawn again."
    ratios, draw = [second / first for first, second in pairs], random.Random(seed)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[draws // 40], medians[-draws // 40 - 1]


def write_rows(out: Path, where: str, measured: Iterable[tuple[str, int | float, str, str]], prefix: str = "") -> None:
    "Writes rows of name, value, unit, relative_to; older rows of the same machine whose names begin with the prefix go."
    kept = [row for row in csv.reader(out.open()) if row[0] != "name" and not (row[0].startswith(prefix) and row[4] == where)] if out.is_file() else []
    today = datetime.date.today().isoformat()
    rows = [(name, f"{value:.4g}" if isinstance(value, float) else str(value), unit, relative, where, today) for name, value, unit, relative in measured]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file: csv.writer(file, lineterminator="\n").writerows([HEADER, *kept, *rows])
    for row in rows: print("  ".join(row[:4]))


def main(script: str, about: str, measured: Callable[[torch.device, int], Iterable[tuple]], repeats: int = 7) -> None:
    "Runs a script's measurements on the best device and writes its table."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--out", type=Path, default=(Path(script).parent / "results" / Path(script).name).with_suffix(".csv"))
    given = parser.parse_args()
    device = best_device()
    write_rows(given.out, machine(device), measured(device, given.repeats))
