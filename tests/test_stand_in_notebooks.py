"""Paper notebooks at scale smoke whose kernels compute on the stand-in device: trainings, features and explanations.

Whole notebooks run here that a machine without a GPU cannot run on one: what mixes devices fails as it would there. The
whole of scale smoke takes long that way; `STAND_IN=all make pytest` runs all of it.
"""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOME = ("cgvs/table1",)      # with the notebooks that it needs: drawn data, a backbone, a captioner


def run(folder: Path, *targets: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"CGSALIENCY_DEVICE": "cuda", "IPYTHONDIR": str(ROOT / "tests/stand_in_kernel")}
    command = [sys.executable, "-m", "snakemake", "--nolock", "--cores", "1", "--keep-going", "--quiet", "host", "reason",
               "--config", "scale=smoke", f"reports={folder}/reports", f"artifacts={folder}/artifacts"]
    wanted = [f"{folder}/reports/smoke/{name}.ipynb" for name in targets]
    return subprocess.run([*command[:6], *wanted, *command[6:]], cwd=ROOT, env=environment, capture_output=True, text=True)


def failures(folder: Path) -> list[str]:
    reports = folder / "reports/smoke"
    return sorted(str(path.relative_to(reports)) for path in reports.rglob("*.failed.ipynb"))


def test_notebooks_run_on_the_stand_in(tmp_path):
    targets = () if os.environ.get("STAND_IN") == "all" else SOME
    done = run(tmp_path, *targets)
    assert not failures(tmp_path), done.stderr[-3000:]
    assert done.returncode == 0, done.stderr[-3000:]
    record = (tmp_path / "reports/smoke/cgvs/table1.run.json").read_text()
    assert '"device"' in record and "CUDA" in record.upper()


def test_a_notebook_that_mixes_devices_fails(tmp_path):
    "The stand-in is at work in the kernel: what a GPU would refuse is refused."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import v4

    cell = "import torch\ntorch.zeros(3, device='cuda') + torch.zeros(3)"
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell)], metadata={"kernelspec": {"name": "python3", "display_name": ""}})
    assert isinstance(notebook, nbformat.NotebookNode)
    os.environ["IPYTHONDIR"] = str(ROOT / "tests/stand_in_kernel")
    try:
        with pytest.raises(CellExecutionError, match="MixedDevices"):
            NotebookClient(notebook, timeout=120).execute()
    finally:
        os.environ.pop("IPYTHONDIR")
