"""Run a paper notebook with papermill: `execute.py SECTION SCALE_FILE DATA ARTIFACTS REPORTS [INPUT ...]`.

Leaves REPORTS/<section>.ipynb and .html, whole and without time stamps, and <section>.run.json, which says what made them and what it took (beside the models, too, where the notebook trains some);
where a cell fails, the notebook up to there as <section>.failed.ipynb. Where `accelerate launch` starts several, each runs the notebook, with a share of the work, and the first one leaves all this.
"""
import os, platform, resource, subprocess, sys, time, warnings
from pathlib import Path

warnings.filterwarnings("ignore", category=DeprecationWarning)
import quick
import nbformat, papermill
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from cgsaliency.core.artefacts import digest, read_json, written_whole, write_json


def tidied(notebook):
    "The notebook without what differs from run to run: papermill's time stamps and the name of its cell, the remains of progress bars."
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if "injected-parameters" in cell.metadata.get("tags", []): cell["id"] = "injected-parameters"      # papermill draws one
        if cell.cell_type != "code": continue
        cell.outputs = [output for output in cell.outputs if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    return notebook


def commit():
    "The commit that the code stands at, and whether something was changed since; None outside a checkout."
    def git(*words): return subprocess.run(["git", *words], capture_output=True, text=True)
    try: at = git("rev-parse", "HEAD")
    except FileNotFoundError: return None
    return at.stdout.strip() + (" and changes" if git("status", "--porcelain", "--untracked-files=no").stdout else "") if at.returncode == 0 else None


def record(section, scale, note, inputs, took, seconds):
    "What made the reports and models of this section."
    code = [path for path in inputs if path.endswith((".py", ".ipynb"))]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)      # of the kernel and what it started
    return {"section": section, "scale": scale, **note, "commit": commit(), "code": digest(*map(Path, code)), "inputs": {path: digest(Path(path)) for path in inputs if path not in code},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores", "seconds": round(seconds, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "memory_gib": round(used.ru_maxrss / 2 ** 20, 2), "cells": [round(one, 1) for one in took]}


def main(section, scale, data, artifacts, reports, *inputs):
    wanted = Path(reports) / section
    failed = wanted.with_name(wanted.name + ".failed.ipynb")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("RANK", 0))
    if rank == 0:      # what a killed run left half written; no other run of this section is at work
        for left in [*wanted.parent.glob(f".{wanted.name}.*.ipynb"), *wanted.parent.glob(f".{wanted.name}.*.note.json"), *wanted.parent.glob(f".{wanted.name}*.part*")]: left.unlink(missing_ok=True)
    else:
        for left in wanted.parent.glob(f".rank{rank}.{wanted.name}.*"): left.unlink(missing_ok=True)
    working = wanted.with_name(f"{f'.rank{rank}' if rank else ''}.{wanted.name}.{os.getpid()}.ipynb")
    start, note = time.monotonic(), working.with_suffix(".note.json")
    os.environ["CGSALIENCY_NOTE"] = str(note.resolve())
    try:
        papermill.execute_notebook(f"nbs/papers/{section}.ipynb", working, {"scale": scale, "data": data, "artifacts": artifacts, "reports": reports},
                                   cwd=".", kernel_name="python3", shutdown_kernel="immediate", progress_bar={"desc": section, "leave": False, "disable": not sys.stderr.isatty()})
    except PapermillExecutionError as error:
        os.replace(working, failed)
        sys.exit(f"{section}: cell {error.exec_count} failed: {error.ename}: {error.evalue}\n-> {failed}")
    finally:
        executed = nbformat.read(working, 4) if working.exists() else None
        noted = read_json(note) if note.exists() else {}
        for path in (working, note): path.unlink(missing_ok=True)
    if rank: return
    took = [cell.metadata.get("papermill", {}).get("duration") or 0 for cell in executed.cells]
    notebook = tidied(executed)
    exporter = HTMLExporter(mathjax_url="", require_js_url="", exclude_input_prompt=True, exclude_output_prompt=True)
    notebook.metadata["title"] = section
    page, _ = exporter.from_notebook_node(notebook)
    notebook.metadata.pop("title")
    with written_whole(wanted.with_name(wanted.name + ".html")) as part: part.write_text(page, encoding="utf-8")
    made = record(section, scale, noted, inputs, took, time.monotonic() - start)
    for folder in (reports, artifacts):
        if folder == reports or Path(folder, f"{section}.json").is_file(): write_json(Path(folder, f"{section}.run.json"), made)
    with written_whole(wanted.with_name(wanted.name + ".ipynb")) as part: nbformat.write(notebook, part)
    failed.unlink(missing_ok=True)


if __name__ == "__main__": main(*sys.argv[1:])
