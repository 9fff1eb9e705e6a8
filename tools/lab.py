"""A JupyterLab in a folder of its own, with one notebook of one cell: for the test and the benchmark that drive the explorer in a browser."""
import os, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import quick
import nbformat
from playwright.sync_api import TimeoutError

ROOT = Path(__file__).resolve().parent.parent
QUIET = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]


@contextmanager
def running(folder, code):
    "The address of the notebook with this code; the server ends afterwards. What it says is in folder/lab.log."
    folder = Path(folder)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), folder / "explore.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTER_CONFIG_DIR": folder / ".config", "JUPYTER_DATA_DIR": folder / ".data", "JUPYTER_RUNTIME_DIR": folder / ".runtime", "IPYTHONDIR": folder / ".ipython", "PYTHONPATH": ROOT, "JUPYTER_PLATFORM_DIRS": "1"}
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *QUIET, f"--port={port}", f"--ServerApp.root_dir={folder}"], cwd=folder, env=os.environ | {name: str(value) for name, value in own.items()}, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            if server.poll() is not None: break
            try: urlopen(f"http://127.0.0.1:{port}/api", timeout=2).close()
            except OSError: time.sleep(0.25)
            else: break
        else: server.kill()
        if server.poll() is not None: raise RuntimeError(f"JupyterLab does not start: {(folder / 'lab.log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb"
    finally:
        server.terminate()
        server.wait(20)


def opened(browser, address):
    "The page with the explorer, after its cell was run."
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(90000)
    page.goto(address)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for(timeout=180000)      # its kernel has started
    for _ in range(5):                        # a busy machine may lose a key
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        try: page.wait_for_function("/\\[(\\*|\\d+)\\]/.test(document.querySelector('.jp-Notebook .jp-CodeCell .jp-InputPrompt')?.textContent ?? '')", timeout=20000)
        except TimeoutError: continue
        break
    page.wait_for_selector(".cgs [data-word]", timeout=180000)
    return page
