"""All that has to be known of a GPU, in eight minutes: `python benchmarks/gpu.py`.

Parts, each of which may be left out, and can be done again:
  tests      the tests marked `gpu`: models, explainers, precision and determinism, against the CPU
  products   the rate of a large matrix product in each precision, which is what the device can do
  training   steps a second of each model at the paper's size, the largest memory, and how close to that rate it comes
  features   images a second of feature extraction, in each precision and memory format
  explaining CGVS, EB, cEB, EB-R, cEB-R and gradients, as multiples of one forward pass in the same run, and a second
  decoding   captions a second
  hours      what each notebook of scale `paper` would take on this device
Each row is written as soon as it is measured, with the name of the device, to results/gpu.csv. What stands there for
this device is not measured again, unless --again is given: a run that was stopped, or that ran out of time, goes on.
Times are medians, taken with the device's own clock, after calls that warm up. Units and sizes are those of units.py,
read from the settings of scale `paper`; data are random. Needs PyTorch and torchvision, and no Snakemake, papermill
or nbdev. On a CPU, `--smallest` runs all parts at the smallest sizes, which shows that they run, and writes into the
folder .make.
"""

import argparse, csv, datetime, gc, itertools, os, statistics, subprocess, sys, tempfile, time, traceback
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import costs
from cgsaliency.core.run import PRECISIONS, best_device, mixed_precision, set_precision
from cgsaliency.models.backbone import Backbone
from measure import HEADER, machine
from units import (
    DECODING,
    EXPLAINING,
    FEATURES,
    TRAINING,
    frame_network,
    paper_sizes,
    paper_settings,
    placed,
    side,
    smallest_sizes,
    units,
)

PARTS = ("tests", "products", "training", "features", "explaining", "decoding", "hours")
SHARES = {
    "tests": 90,
    "products": 15,
    "training": 170,
    "features": 60,
    "explaining": 90,
    "decoding": 45,
    "hours": 10,
}  # seconds of eight minutes
Row = tuple[str, float, str, str]  # name, value, unit, relative_to
FAILED: list[str] = []  # units that could not be measured


class Table:
    "The rows of a CSV file, some of them of this device; each new one is written at once."

    def __init__(self, path: Path, where: str, again: bool = False):
        self.path, self.where = path, where
        rows = list(csv.reader(path.open()))[1:] if path.is_file() else []
        self.rows = [row for row in rows if not (again and row[4] == where)]

    def values(self) -> dict[str, float]:
        "Return the values of this device by name."
        return {row[0]: float(row[1]) for row in self.rows if row[4] == self.where}

    def add(self, *rows: Row) -> None:
        "Write the rows, in the place of those of the same name."
        today = datetime.date.today().isoformat()
        new = [[name, f"{value:.4g}", unit, relative, self.where, today] for name, value, unit, relative in rows]
        names = {row[0] for row in new}
        self.rows = [row for row in self.rows if row[4] != self.where or row[0] not in names] + new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *self.rows])
        os.replace(part, self.path)
        for row in new:
            print("  ".join(row[:4]), flush=True)


class Clock:
    "The time that is left to a part."

    def __init__(self, seconds: float):
        self.ends = time.monotonic() + seconds

    def over(self) -> bool:
        "Whether it is over."
        return time.monotonic() > self.ends


# Measuring


def synchronize(device: torch.device) -> None:
    "Wait until the device has done all that it was asked."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(device: torch.device, work: Callable[[], object]) -> float:
    "Return the seconds of one call, by the device's own clock where it has one."
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def median(device: torch.device, *works: Callable[[], object], seconds: float, most: int = 50) -> list[float]:
    "Return the median time of each call; they take turns, at least twice each, for about so many seconds."
    for work in works:
        for _ in range(2 if device.type == "cuda" else 1):
            work()
    synchronize(device)
    times: list[list[float]] = []
    start = time.monotonic()
    while len(times) < 2 or len(times) < most and time.monotonic() - start < seconds:
        times.append([once(device, work) for work in works])
    return [statistics.median(column) for column in zip(*times)]


def largest_memory(device: torch.device, work: Callable[[], object]) -> float | None:
    "Return the GiB of device memory that one call needs at most, with its model; None where that is not counted."
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def time_rows(label: str, took: float, per_call: int) -> list[Row]:
    "Return the seconds of one item and the items a second, where a call does so many."
    return [(label, took / per_call, "s", ""), (f"{label}, rate", per_call / took, "1/s", "")]


def memory_rows(label: str, device: torch.device, work: Callable[[], object]) -> list[Row]:
    "Return what `largest_memory` finds as a row; none where that is not counted."
    memory = largest_memory(device, work)
    return [] if memory is None else [(f"{label}, largest memory", memory, "GiB", "of the device, with its models")]


@contextmanager
def survived(name: str) -> Iterator[None]:
    "Go on with the next unit where this one fails; the run says so at once, and at its end."
    try:
        yield
    except Exception as fault:
        FAILED.append(name)
        print(f"FAILED: {name}", file=sys.stderr, flush=True)
        traceback.print_exception(fault, limit=-4)


def let_go(device: torch.device) -> None:
    "Free what nobody holds any more."
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# Parts: each measures what the table does not hold yet, while there is time


def tests(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    if {"tests: passed", "tests: skipped"} & table.values().keys():
        return
    with tempfile.TemporaryDirectory() as folder, survived("tests"):
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-m",
                "gpu",
                "-p",
                "no:cacheprovider",
                f"--junitxml={report}",
                str(ROOT / "tests/test_gpu.py"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=max(clock.ends - time.monotonic(), 120),
        )
        print("\n".join(done.stdout.splitlines()[-30:]))
        if not report.is_file():
            raise RuntimeError(f"the tests could not be run:\n{done.stdout}{done.stderr}")
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
        all_, failed, skipped = (
            int(suite.get("tests")),
            int(suite.get("failures")) + int(suite.get("errors")),
            int(suite.get("skipped")),
        )
        yield [
            ("tests: passed", all_ - failed - skipped, "tests", ""),
            ("tests: failed", failed, "tests", ""),
            ("tests: skipped", skipped, "tests", ""),
            ("tests: time", float(suite.get("time")), "s", ""),
        ]


def products(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    side = 256 if chosen.smallest else 8192
    for precision in PRECISIONS:
        if f"products: {precision}" in table.values():
            continue
        set_precision(precision)
        one, other = (
            torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
            for _ in range(2)
        )
        (took,) = median(device, lambda: one @ other, seconds=chosen.seconds)
        yield [
            (
                f"products: {precision}",
                2 * side**3 / took / 1e12,
                "10^12 operations/s",
                f"product of two {side} × {side} matrices of random numbers",
            )
        ]


def each(
    table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock, part: str, kind: str
) -> Iterator[list[Row]]:
    """Measure the units of a kind in each precision: seconds, rate, largest memory, and the share of the rate of a
    large product."""
    precisions = PRECISIONS if kind in (TRAINING, FEATURES) else PRECISIONS[:1]
    for name, unit in units(chosen.sizes).items():
        if unit.kind != kind or unit.against:
            continue
        wanted = [precision for precision in precisions if f"{part}: {name}, {precision}" not in table.values()]
        if not wanted:
            continue
        if clock.over():
            return print(f"{part}: out of time at '{name}'; run again to go on")
        work = flops = None
        for precision in wanted:
            rows: list[Row] = []
            with survived(f"{part}: {name}, {precision}"):
                set_precision(precision)
                work = work or unit.make(device)
                (took,) = median(device, work, seconds=chosen.seconds)
                flops = costs.operations(work)[0] if flops is None else flops
                label, rate = f"{part}: {name}, {precision}", table.values().get(f"products: {precision}")
                rows += time_rows(label, took, unit.per_call) + memory_rows(label, device, work)
                if rate:
                    share = flops / took / 1e12 / rate
                    against = "a large matrix product in the same run"
                    rows.append((f"{label}, share of the device's rate", share, "", against))
            yield rows
        del work
        let_go(device)


def training(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    yield from each(table, device, chosen, clock, "training", TRAINING)


def decoding(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    yield from each(table, device, chosen, clock, "decoding", DECODING)


def features(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "The units of feature extraction, and the networks alone in both memory formats."
    yield from each(table, device, chosen, clock, "features", FEATURES)
    networks = {
        "Inception-v3": lambda: placed(partial(Backbone, chosen.sizes.backbone), device),
        "VGG-16": lambda: frame_network(chosen.sizes, device),
    }
    formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    for name, make in networks.items():
        wanted = [
            (label, precision)
            for label, precision in itertools.product(formats, PRECISIONS)
            if f"features: {name} alone, {label}, {precision}" not in table.values()
        ]
        if not wanted:
            continue
        if clock.over():
            return print(f"features: out of time at '{name} alone'; run again to go on")
        network = make()
        size = getattr(network, "size", None) or side(chosen.sizes)
        images = torch.rand(chosen.sizes.images, 3, size, size, device=device)
        called = torch.compile(network) if chosen.compile else network
        for label, precision in wanted:
            rows: list[Row] = []
            with survived(f"features: {name} alone, {label}, {precision}"):
                set_precision(precision)
                network.to(memory_format=formats[label])
                given = images.contiguous(memory_format=formats[label])

                def work() -> torch.Tensor:
                    with torch.inference_mode(), mixed_precision(device):
                        return called(given)

                (took,) = median(device, work, seconds=chosen.seconds)
                rows += [
                    (f"features: {name} alone, {label}, {precision}", len(images) / took, "1/s", "images on the device")
                ]
            yield rows
        network = called = None
        let_go(device)


def explaining(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Each explanation in turns with the forward pass that it is set beside."
    yield from each(table, device, chosen, clock, "explaining", EXPLAINING)
    set_precision("float32")
    every = units(chosen.sizes)
    for against, group in itertools.groupby(
        sorted(((unit.against, name) for name, unit in every.items() if unit.kind == EXPLAINING and unit.against)),
        key=lambda pair: pair[0],
    ):
        forward = None
        for _, name in group:
            if f"explaining: {name}, float32" in table.values():
                continue
            if clock.over():
                return print(f"explaining: out of time at '{name}'; run again to go on")
            work, rows = None, []
            label = f"explaining: {name}, float32"
            with survived(label):
                forward = forward or every[against].make(device)
                unit, work = every[name], every[name].make(device)
                alone, took = median(device, forward, work, seconds=chosen.seconds)
                multiple = took / unit.per_call * every[against].per_call / alone
                rows += time_rows(label, took, unit.per_call) + memory_rows(label, device, work)
                rows.append((f"explaining: {name}, multiple", multiple, "times", against))
            yield rows
            del work
            let_go(device)


def hours(table: Table, device: torch.device, chosen: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    """The hours of each notebook, from the units that were measured, with what is read as `costs.csv` says;
    explanations and captions are computed in float32 in each precision."""
    known, wanted = table.values(), costs.counts(paper_settings())
    host = {name: one["seconds"] for name, one in costs.units_in(costs.read_costs()).items() if name in costs.HOST}
    rest, rows, missing = costs.toybox_hours(), [], set()
    for precision in PRECISIONS:
        seconds = {}
        for name, unit in units(chosen.sizes).items():
            own = precision if unit.kind in (TRAINING, FEATURES) else "float32"
            if (row := f"{unit.kind}: {name}, {own}") in known:
                seconds[name] = known[row]
        for section, found in wanted.items():
            lacking = [name for name in found if name not in costs.HOST and name not in seconds]
            missing |= set(lacking)
            if lacking or not any(name not in costs.HOST for name in found):
                continue
            rows.append(
                (
                    f"paper: {section}, measured GPU, {precision}",
                    costs.hours(found, seconds, host) + rest.get(section, 0.1),
                    "h",
                    "units on this device; what is read, and pages, as in costs.csv",
                )
            )
    if missing:
        print(
            f"hours: left out are notebooks that run units not measured yet, such as {', '.join(sorted(missing)[:3])}"
        )
    yield rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="these parts")
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=(), metavar="PART", help="all but these parts")
    parser.add_argument("--again", action="store_true", help="measure anew what stands in the table for this device")
    parser.add_argument("--smallest", action="store_true", help="the smallest sizes, to see that all parts run")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks of feature extraction with torch.compile; the rows are of a device named so",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="that all parts may take; each has a share of them")
    parser.add_argument(
        "--out", type=Path, help="the table; benchmarks/results/gpu.csv, or .make/gpu.csv for the smallest sizes"
    )
    chosen = parser.parse_args()
    device = best_device()
    if device.type == "cpu":
        torch.set_num_threads(1 if chosen.smallest else min(torch.get_num_threads(), 2))
    chosen.sizes, chosen.seconds = (smallest_sizes(), 0.05) if chosen.smallest else (paper_sizes(), 0.5)
    where = machine(device) + ", smallest sizes" * chosen.smallest + ", compiled" * chosen.compile
    table = Table(
        chosen.out or (ROOT / ".make/gpu.csv" if chosen.smallest else ROOT / "benchmarks/results/gpu.csv"),
        where,
        chosen.again,
    )
    start = time.monotonic()
    for part in PARTS:
        if part not in chosen.only or part in chosen.skip:
            continue
        begun = time.monotonic()
        for rows in globals()[part](table, device, chosen, Clock(SHARES[part] * chosen.minutes / 8)):
            table.add(*rows)
        set_precision("float32")
        let_go(device)
        print(f"{part}: {time.monotonic() - begun:.0f} s", flush=True)
    print(f"all: {time.monotonic() - start:.0f} s on {where} -> {table.path}")
    if FAILED:
        sys.exit(f"{len(FAILED)} units could not be measured: {'; '.join(FAILED)}")


if __name__ == "__main__":
    main()
