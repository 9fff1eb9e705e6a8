"""Carry the outputs of a run into the paper notebooks, so that whoever reads them sees tables and figures: `carry.py REPORTS SCALE ...`.

Each notebook gets the outputs of the first scale named that runs it. Its code must be what ran.
"""
import base64, shutil, sys
from pathlib import Path

import quick
import nbformat

MOST = 150_000  # bytes of a picture


def carried(notebook, executed, where):
    "The notebook with the outputs of the executed one; prose may have changed since."
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.source for cell in ran] != [cell.source for cell in code]: sys.exit(f"{where} is another version than what ran: run it again first")
    for cell, source in zip(code, ran):
        cell.outputs, cell.execution_count = source.outputs, None
        for output in cell.outputs:
            if "execution_count" in output: output["execution_count"] = None
            large = max((len(data) * 3 // 4 for kind, data in output.get("data", {}).items() if kind.startswith("image/")), default=0)
            if large > MOST: sys.exit(f"{where} has a picture of {large} bytes; at most {MOST} are committed: make it smaller")
    return notebook


def main(reports, *scales):
    for path in sorted(Path("nbs/papers").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        section = path.relative_to("nbs/papers")
        found = next((Path(reports) / scale / section for scale in scales if (Path(reports) / scale / section).is_file()), None)
        if found is None: sys.exit(f"{path} was run at none of the scales {', '.join(scales)}: run it first")
        nbformat.write(carried(nbformat.read(path, 4), nbformat.read(found, 4), path), path)
        print(f"{path} <- {found}")
    shutil.copyfile(Path(reports) / scales[0] / "claims.csv", "nbs/papers/claims.csv")     # what README.md says of them
    for picture, section in {"heatmaps": "cgvs/table1", "film": "cgvs/figure5", "evidence": "ebr/figure1"}.items():     # what README.md begins with
        shown = [output["data"]["image/png"] for cell in nbformat.read(f"nbs/papers/{section}.ipynb", 4).cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        Path(f"nbs/images/{picture}.png").write_bytes(base64.b64decode(shown[0]))


if __name__ == "__main__": main(*sys.argv[1:])
