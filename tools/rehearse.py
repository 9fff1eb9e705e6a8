"""What `make rehearse` does besides running the notebooks.

`rehearse.py draw FOLDER [GIVEN]` makes the data; `rehearse.py record REPORTS ARTIFACTS` writes what each notebook took
into benchmarks/results/rehearsal.csv.
"""
import os, platform, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from cgsaliency.core.errors import BadInput
from cgsaliency.core.scales import load_scale
from cgsaliency.reproduce.rehearsal import draw_data, run_costs


def record(reports: str, artifacts: str) -> None:
    from measure import write_rows
    sections = [name for name in load_scale(ROOT / "nbs/papers/scales/rehearsal.yaml") if name != "all"]
    rows = run_costs(Path(reports), Path(artifacts), sections, "rehearsal")
    machine = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    write_rows(ROOT / "benchmarks/results/rehearsal.csv", machine, rows, prefix="rehearsal:")


def main(what: str, folder: str, given: str = "") -> None:
    if what == "record":
        record(folder, given)
    elif made := draw_data(Path(folder), Path(given) if given else None):
        print(f"{folder}: drew {', '.join(made)}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BadInput as error:
        sys.exit(str(error))
