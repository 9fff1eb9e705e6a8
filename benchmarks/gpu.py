"""Tests and measurements on a GPU, in eight minutes: `python benchmarks/gpu.py`.

Parts, each of which can be skipped or repeated:
  tests      the tests marked `gpu`: models, explainers, precision and determinism, compared with the CPU
  products   the rate of a large matrix product in each precision, which is the peak rate of the device
  training   steps per second of each model at the paper's size, peak memory, and the share of the peak rate
  features   images per second of feature extraction, in each precision and memory format
  explaining CGVS, EB, cEB, EB-R, cEB-R and gradients, as multiples of one forward pass in the same run, and per second
  decoding   captions per second
  hours      the hours of each notebook of scale `paper` on this device
Each row is written as soon as it is measured, with the name of the device, to results/gpu.csv. Existing rows of this
device are not measured again unless --again is given: a stopped run, or one that ran out of time, resumes. Times are
medians after a warm-up, measured with the device's clock. Units and sizes are those of units.py, read from the settings
of scale `paper`; data are random. The script needs PyTorch and torchvision, but not Snakemake, papermill or nbdev. On a
CPU, `--smallest` runs all parts at the smallest sizes, as a test of the script, and writes to the folder .make.
"""

import argparse
import csv
import datetime
import gc
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import costs
from cgsaliency.core.runtime import PRECISIONS, default_device, mixed_precision, set_precision
from cgsaliency.features.backbone import Backbone
from measure import HEADER, machine
from units import (
    DECODING,
    EXPLAINING,
    FEATURES,
    TRAINING,
    build_model,
    frame_network,
    input_size,
    paper_settings,
    paper_sizes,
    smallest_sizes,
    units,
)

PARTS = ("tests", "products", "training", "features", "explaining", "decoding", "hours")
SECONDS = {  # of each part, of eight minutes
    "tests": 90,
    "products": 15,
    "training": 170,
    "features": 60,
    "explaining": 90,
    "decoding": 45,
    "hours": 10,
}
Row = tuple[str, float, str, str]  # name, value, unit, relative_to
FAILED: list[str] = []  # units that could not be measured


class Table:
    "The rows of a CSV file, of this device and of others; new rows are written at once."

    def __init__(self, path: Path, machine_name: str, again: bool = False):
        self.path, self.machine_name = path, machine_name
        rows = list(csv.reader(path.open()))[1:] if path.is_file() else []
        self.rows = [row for row in rows if not (again and row[4] == machine_name)]

    def values(self) -> dict[str, float]:
        "Return the values of this device by name."
        return {row[0]: float(row[1]) for row in self.rows if row[4] == self.machine_name}

    def add(self, *rows: Row) -> None:
        "Write the rows; they replace rows of the same name."
        today = datetime.date.today().isoformat()
        new = [[name, f"{value:.4g}", unit, relative, self.machine_name, today] for name, value, unit, relative in rows]
        names = {row[0] for row in new}
        self.rows = [row for row in self.rows if row[4] != self.machine_name or row[0] not in names] + new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *self.rows])
        os.replace(part, self.path)
        for row in new:
            print("  ".join(row[:4]), flush=True)


class Clock:
    "The time limit of a part."

    def __init__(self, seconds: float):
        self.ends = time.monotonic() + seconds

    def over(self) -> bool:
        "Return whether the time is over."
        return time.monotonic() > self.ends


# Measuring


def synchronize(device: torch.device) -> None:
    "Wait until the device has finished all its work."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(device: torch.device, call: Callable[[], object]) -> float:
    "Return the seconds of a call, measured by CUDA events on a GPU."
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def median(device: torch.device, *calls: Callable[[], object], seconds: float, max_turns: int = 50) -> list[float]:
    "Return the median time of each call; the calls alternate, at least twice, for about the given seconds."
    for call in calls:
        for _ in range(2 if device.type == "cuda" else 1):
            call()
    synchronize(device)
    times: list[list[float]] = []
    start = time.monotonic()
    while len(times) < 2 or len(times) < max_turns and time.monotonic() - start < seconds:
        times.append([time_call(device, call) for call in calls])
    return [statistics.median(column) for column in zip(*times, strict=True)]


def peak_memory(device: torch.device, call: Callable[[], object]) -> float | None:
    "Return the peak device memory of a call, with its model, GiB; None on a CPU."
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def time_rows(label: str, seconds: float, per_call: int) -> list[Row]:
    "Return rows with the seconds per item and the items per second."
    return [(label, seconds / per_call, "s", ""), (f"{label}, rate", per_call / seconds, "1/s", "")]


def memory_rows(label: str, device: torch.device, call: Callable[[], object]) -> list[Row]:
    "Return the result of `peak_memory` as a row; no row on a CPU."
    memory = peak_memory(device, call)
    return [] if memory is None else [(f"{label}, largest memory", memory, "GiB", "of the device, with its models")]


@contextmanager
def report_failure(name: str) -> Iterator[None]:
    "Report an exception and continue; the run lists the failed units at its end."
    try:
        yield
    except Exception as error:
        FAILED.append(name)
        print(f"FAILED: {name}", file=sys.stderr, flush=True)
        traceback.print_exception(error, limit=-4)


def free_memory(device: torch.device) -> None:
    "Free unreferenced memory."
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# Parts: each measures the rows that are missing in the table, until its time is over


def tests(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Run the tests marked `gpu`."
    if {"tests: passed", "tests: skipped"} & table.values().keys():
        return
    with tempfile.TemporaryDirectory() as folder, report_failure("tests"):
        report = Path(folder) / "report.xml"
        completed = subprocess.run(
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
                str(ROOT / "tests/project/test_gpu.py"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=max(clock.ends - time.monotonic(), 120),
        )
        print("\n".join(completed.stdout.splitlines()[-30:]))
        if not report.is_file():
            raise RuntimeError(f"the tests could not be run:\n{completed.stdout}{completed.stderr}")
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
        failed = int(suite.get("failures")) + int(suite.get("errors"))
        skipped = int(suite.get("skipped"))
        yield [
            ("tests: passed", int(suite.get("tests")) - failed - skipped, "tests", ""),
            ("tests: failed", failed, "tests", ""),
            ("tests: skipped", skipped, "tests", ""),
            ("tests: time", float(suite.get("time")), "s", ""),
        ]


def products(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Measure the rate of a large matrix product."
    size = 256 if args.smallest else 8192
    for precision in PRECISIONS:
        if f"products: {precision}" in table.values():
            continue
        set_precision(precision)
        left, right = (
            torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
            for _ in range(2)
        )
        (seconds,) = median(device, lambda: left @ right, seconds=args.seconds)
        yield [
            (
                f"products: {precision}",
                2 * size**3 / seconds / 1e12,
                "10^12 operations/s",
                f"product of two {size} × {size} matrices of random numbers",
            )
        ]


def measure_units(
    table: Table, device: torch.device, args: argparse.Namespace, clock: Clock, part: str, kind: str
) -> Iterator[list[Row]]:
    """Measure the units of a kind in each precision: seconds, rate, peak memory, and the share of the rate of a large
    matrix product."""
    precisions = PRECISIONS if kind in (TRAINING, FEATURES) else PRECISIONS[:1]
    for name, unit in units(args.sizes).items():
        if unit.kind != kind or unit.against:
            continue
        missing = [precision for precision in precisions if f"{part}: {name}, {precision}" not in table.values()]
        if not missing:
            continue
        if clock.over():
            return print(f"{part}: out of time at '{name}'; run again to resume")
        call = flops = None
        for precision in missing:
            rows: list[Row] = []
            with report_failure(f"{part}: {name}, {precision}"):
                set_precision(precision)
                call = call or unit.make(device)
                (seconds,) = median(device, call, seconds=args.seconds)
                flops = costs.operations(call)[0] if flops is None else flops
                label, rate = f"{part}: {name}, {precision}", table.values().get(f"products: {precision}")
                rows += time_rows(label, seconds, unit.per_call) + memory_rows(label, device, call)
                if rate:
                    share = flops / seconds / 1e12 / rate
                    against = "a large matrix product in the same run"
                    rows.append((f"{label}, share of the device's rate", share, "", against))
            yield rows
        del call
        free_memory(device)


def training(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Measure training steps."
    yield from measure_units(table, device, args, clock, "training", TRAINING)


def decoding(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Measure the generation of captions."
    yield from measure_units(table, device, args, clock, "decoding", DECODING)


def features(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Measure feature extraction, and the networks alone in both memory formats."
    yield from measure_units(table, device, args, clock, "features", FEATURES)
    networks = {
        "Inception-v3": lambda: build_model(partial(Backbone, args.sizes.backbone), device),
        "VGG-16": lambda: frame_network(args.sizes, device),
    }
    formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    for name, make in networks.items():
        missing = [
            (label, precision)
            for label, precision in itertools.product(formats, PRECISIONS)
            if f"features: {name} alone, {label}, {precision}" not in table.values()
        ]
        if not missing:
            continue
        if clock.over():
            return print(f"features: out of time at '{name} alone'; run again to resume")
        network = make()
        size = getattr(network, "size", None) or input_size(args.sizes)
        images = torch.rand(args.sizes.images, 3, size, size, device=device)
        compiled = torch.compile(network) if args.compile else network
        for label, precision in missing:
            rows: list[Row] = []
            with report_failure(f"features: {name} alone, {label}, {precision}"):
                set_precision(precision)
                network.to(memory_format=formats[label])
                inputs = images.contiguous(memory_format=formats[label])

                def forward() -> torch.Tensor:
                    with torch.inference_mode(), mixed_precision(device):
                        return compiled(inputs)

                (seconds,) = median(device, forward, seconds=args.seconds)
                rows += [
                    (
                        f"features: {name} alone, {label}, {precision}",
                        len(images) / seconds,
                        "1/s",
                        "images on the device",
                    )
                ]
            yield rows
        network = compiled = None
        free_memory(device)


def explaining(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    "Measure each explanation, alternating with the forward pass relative to which it is reported."
    yield from measure_units(table, device, args, clock, "explaining", EXPLAINING)
    set_precision("float32")
    units_by_name = units(args.sizes)
    for against, group in itertools.groupby(
        sorted(
            (unit.against, name) for name, unit in units_by_name.items() if unit.kind == EXPLAINING and unit.against
        ),
        key=lambda pair: pair[0],
    ):
        forward = None
        for _, name in group:
            if f"explaining: {name}, float32" in table.values():
                continue
            if clock.over():
                return print(f"explaining: out of time at '{name}'; run again to resume")
            call, rows = None, []
            label = f"explaining: {name}, float32"
            with report_failure(label):
                forward = forward or units_by_name[against].make(device)
                unit, call = units_by_name[name], units_by_name[name].make(device)
                forward_time, seconds = median(device, forward, call, seconds=args.seconds)
                multiple = seconds / unit.per_call * units_by_name[against].per_call / forward_time
                rows += time_rows(label, seconds, unit.per_call) + memory_rows(label, device, call)
                rows.append((f"explaining: {name}, multiple", multiple, "times", against))
            yield rows
            del call
            free_memory(device)


def hours(table: Table, device: torch.device, args: argparse.Namespace, clock: Clock) -> Iterator[list[Row]]:
    """Compute the hours of each notebook from the measured units, with the reading times of `costs.csv`; explanations
    and captions are always computed in float32."""
    values, counts_by_section = table.values(), costs.counts(paper_settings())
    host = {
        name: unit_costs["seconds"]
        for name, unit_costs in costs.units_in(costs.read_costs()).items()
        if name in costs.HOST
    }
    toybox, rows, missing = costs.toybox_hours(), [], set()
    for precision in PRECISIONS:
        seconds = {}
        for name, unit in units(args.sizes).items():
            unit_precision = precision if unit.kind in (TRAINING, FEATURES) else "float32"
            if (row := f"{unit.kind}: {name}, {unit_precision}") in values:
                seconds[name] = values[row]
        for section, counts in counts_by_section.items():
            unmeasured = [name for name in counts if name not in costs.HOST and name not in seconds]
            missing |= set(unmeasured)
            if unmeasured or not any(name not in costs.HOST for name in counts):
                continue
            rows.append(
                (
                    f"paper: {section}, measured GPU, {precision}",
                    costs.hours(counts, seconds, host) + toybox.get(section, 0.1),
                    "h",
                    "units on this device; what is read, and pages, as in costs.csv",
                )
            )
    if missing:
        print(
            f"hours: notebooks with units that are not measured are omitted, such as {', '.join(sorted(missing)[:3])}"
        )
    yield rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="run only these parts")
    parser.add_argument(
        "--skip", nargs="+", choices=PARTS, default=(), metavar="PART", help="run all parts except these"
    )
    parser.add_argument("--again", action="store_true", help="measure again the existing rows of this device")
    parser.add_argument("--smallest", action="store_true", help="the smallest sizes, as a test of all parts")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks of feature extraction with torch.compile; the name of the device ends in 'compiled'",
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="time limit of all parts; each part has a share of it"
    )
    parser.add_argument(
        "--out", type=Path, help="the table; benchmarks/results/gpu.csv, or .make/gpu.csv for the smallest sizes"
    )
    args = parser.parse_args()
    device = default_device()
    if device.type == "cpu":
        torch.set_num_threads(1 if args.smallest else min(torch.get_num_threads(), 2))
    args.sizes, args.seconds = (smallest_sizes(), 0.05) if args.smallest else (paper_sizes(), 0.5)
    machine_name = machine(device) + ", smallest sizes" * args.smallest + ", compiled" * args.compile
    table = Table(
        args.out or (ROOT / ".make/gpu.csv" if args.smallest else ROOT / "benchmarks/results/gpu.csv"),
        machine_name,
        args.again,
    )
    start = time.monotonic()
    for part in PARTS:
        if part not in args.only or part in args.skip:
            continue
        part_start = time.monotonic()
        for rows in globals()[part](table, device, args, Clock(SECONDS[part] * args.minutes / 8)):
            table.add(*rows)
        set_precision("float32")
        free_memory(device)
        print(f"{part}: {time.monotonic() - part_start:.0f} s", flush=True)
    print(f"all: {time.monotonic() - start:.0f} s on {machine_name} -> {table.path}")
    if FAILED:
        sys.exit(f"{len(FAILED)} units could not be measured: {'; '.join(FAILED)}")


if __name__ == "__main__":
    main()
