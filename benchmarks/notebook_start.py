"""What a notebook costs besides its cells: `python benchmarks/notebook_start.py`.

A notebook with one cell, which imports what most paper notebooks import, runs as `make reproduce` runs it, in a fork of
the notebook server and in new processes, in turns. Processor times include the process that runs papermill and the
kernel."""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from cgsaliency.reproduce.notebook_server import THREAD_VARIABLES
from cgsaliency.reproduce.run_section import SERVER_VARIABLE
from measure import ratio, write_rows

ROOT = Path(__file__).resolve().parent.parent
TURNS = 5
IMPORTS = """
import matplotlib.pyplot as plt
import pandas as pd
import torch
from cgsaliency.features.extractor import load_extractor
from cgsaliency.models.s2vt import S2VT
from cgsaliency.reproduce.tables import save_table
"""
STAGES = {
    "Python": "pass",
    "papermill and nbconvert": "import cgsaliency.reproduce.execute",
    "a kernel's own modules": "import ipykernel.kernelapp, IPython",
    "PyTorch": "import torch",
    "pandas and matplotlib": "import pandas, matplotlib.pyplot",
    "what a paper notebook imports": IMPORTS,
}


def run(command, **changes):
    "Run the command and return its seconds, and the processor seconds of it and its children."
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONPATH": str(ROOT), **changes}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_project(folder):
    "Write a project with one notebook."
    parameters = "\n".join(f'{name} = ""' for name in ("scale", "data", "artifacts", "reports"))
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(IMPORTS),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    (folder / "nbs/papers/cgvs").mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, folder / "nbs/papers/cgvs/table1.ipynb")


def main():
    "Measure and write the table. The server calls it again, with the address of the server in the environment."
    address = os.environ[SERVER_VARIABLE]
    section = [sys.executable, "-m", "cgsaliency.reproduce.run_section", "cgvs/table1", "smoke", "d", "a", "reports"]
    rows = []
    for name, script in STAGES.items():
        times = [run([sys.executable, "-c", script]) for _ in range(3)][1:]
        rows.append((f"start of {name}, processor time", statistics.median(cpu for _, cpu in times), "s", ""))
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder))
        os.chdir(folder)
        for server in ("", address):
            run(section, **{SERVER_VARIABLE: server})
        pairs, processor = [], []
        for _ in range(TURNS):
            (new, new_cpu), (fork, _) = (run(section, **{SERVER_VARIABLE: server}) for server in ("", address))
            pairs.append((fork, new))
            processor.append(new_cpu)
        os.chdir(ROOT)
    middle, low, high = ratio(pairs)
    fork = "a notebook of imports in a fork of the server"
    rows += [
        ("a notebook of imports in new processes", statistics.median(new for _, new in pairs), "s", ""),
        ("a notebook of imports in new processes, processor time", statistics.median(processor), "s", ""),
        (fork, statistics.median(fork_seconds for fork_seconds, _ in pairs), "s", ""),
        ("a notebook of imports in new processes", middle, "ratio", fork),
        ("a notebook of imports in new processes, lower end", low, "ratio", fork),
        ("a notebook of imports in new processes, upper end", high, "ratio", fork),
    ]
    name = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    write_rows(ROOT / "benchmarks/results/notebook_start.csv", name, rows)


if __name__ == "__main__":
    if SERVER_VARIABLE in os.environ:
        main()
    else:
        command = [sys.executable, "-m", "cgsaliency.reproduce.notebook_server", sys.executable, __file__]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT)})
