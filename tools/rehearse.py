"""Write the data of `make rehearse`, and record the costs of its notebooks.

`rehearse.py draw FOLDER [DATA]` writes the data; `rehearse.py record REPORTS ARTIFACTS` writes the time and memory of
each notebook into benchmarks/results/rehearsal.csv.
"""

import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from cgsaliency.core.errors import InputError
from cgsaliency.reproduce.rehearsal import notebook_costs, write_rehearsal_data
from cgsaliency.reproduce.scale_config import load_scale


def record(reports: str, artifacts: str) -> None:
    "Write the costs of the notebooks to the benchmark's CSV file."
    from measure import write_rows

    sections = [name for name in load_scale("rehearsal") if name != "all"]
    rows = notebook_costs(Path(reports), Path(artifacts), sections, "rehearsal")
    machine = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    write_rows(ROOT / "benchmarks/results/rehearsal.csv", machine, rows, prefix="rehearsal:")


def main(command: str, folder: str, second_folder: str = "") -> None:
    "Run the command: 'draw' or 'record'."
    if command == "record":
        record(folder, second_folder)
    elif written := write_rehearsal_data(Path(folder), Path(second_folder) if second_folder else None):
        print(f"{folder}: wrote {', '.join(written)}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(str(error))
