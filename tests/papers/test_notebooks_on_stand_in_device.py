"""Paper notebooks at scale smoke with a kernel on the simulated device: training, features and explanations.

An operation that mixes devices fails as on a GPU. By default one table runs with the notebooks that it needs;
`STAND_IN=all make pytest` runs all notebooks, which takes long.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# with the notebooks that it needs: synthetic data, a backbone, a captioner
DEFAULT_TARGETS = ("cgvs/table1",)


def run_notebooks(folder: Path, *targets: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"CGSALIENCY_DEVICE": "cuda", "IPYTHONDIR": str(ROOT / "tests/stand_in_kernel")}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--nolock",
        "--cores",
        "1",
        "--keep-going",
        "--quiet",
        "host",
        "reason",
        "--config",
        "scale=smoke",
        f"reports={folder}/reports",
        f"artifacts={folder}/artifacts",
    ]
    wanted = [f"{folder}/reports/smoke/{name}.ipynb" for name in targets]
    return subprocess.run(
        [*command[:6], *wanted, *command[6:]], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def failed_notebooks(folder: Path) -> list[str]:
    reports = folder / "reports/smoke"
    return sorted(str(path.relative_to(reports)) for path in reports.rglob("*.failed.ipynb"))


def test_notebooks_run_on_the_simulated_device(tmp_path):
    targets = () if os.environ.get("STAND_IN") == "all" else DEFAULT_TARGETS
    completed = run_notebooks(tmp_path, *targets)
    assert not failed_notebooks(tmp_path), completed.stderr[-3000:]
    assert completed.returncode == 0, completed.stderr[-3000:]
    record = (tmp_path / "reports/smoke/cgvs/table1.run.json").read_text()
    assert '"device"' in record and "CUDA" in record.upper()


def test_a_notebook_that_mixes_devices_fails(tmp_path):
    "The simulated device is active in the kernel."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import v4

    cell = "import torch\ntorch.zeros(3, device='cuda') + torch.zeros(3)"
    notebook = v4.new_notebook(
        cells=[v4.new_code_cell(cell)], metadata={"kernelspec": {"name": "python3", "display_name": ""}}
    )
    assert isinstance(notebook, nbformat.NotebookNode)
    os.environ["IPYTHONDIR"] = str(ROOT / "tests/stand_in_kernel")
    try:
        with pytest.raises(CellExecutionError, match="MixedDevices"):
            NotebookClient(notebook, timeout=120).execute()
    finally:
        os.environ.pop("IPYTHONDIR")
