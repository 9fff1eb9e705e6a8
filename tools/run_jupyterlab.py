"""Run JupyterLab in a separate folder with a notebook of one cell, for the test and the benchmark of the explorer in a
browser."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat
from playwright.sync_api import TimeoutError

ROOT = Path(__file__).resolve().parent.parent
QUIET = [
    "--no-browser",
    "--allow-root",
    "--ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--IdentityProvider.token=",
    "--ServerApp.disable_check_xsrf=True",
    "--LabApp.news_url=",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]


@contextmanager
def running(folder, code):
    "Run a server with a notebook of this code and yield the notebook's address; the log is folder/lab.log."
    folder = Path(folder)
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(code)],
            metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
        ),
        folder / "explore.ipynb",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "JUPYTER_CONFIG_DIR": folder / ".config",
        "JUPYTER_DATA_DIR": folder / ".data",
        "JUPYTER_RUNTIME_DIR": folder / ".runtime",
        "IPYTHONDIR": folder / ".ipython",
        "PYTHONPATH": ROOT,
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *QUIET, f"--port={port}", f"--ServerApp.root_dir={folder}"],
            cwd=folder,
            env=os.environ | {name: str(value) for name, value in environment.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(240):
            if server.poll() is not None:
                break
            try:
                urlopen(f"http://127.0.0.1:{port}/api", timeout=2).close()
            except OSError:
                time.sleep(0.25)
            else:
                break
        else:
            server.kill()
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab does not start: {(folder / 'lab.log').read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb"
    finally:
        server.terminate()
        server.wait(20)


def opened(browser, address):
    "Open the notebook, run its cell, and return the page with the explorer."
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(90000)
    page.goto(address)
    # its kernel has started
    page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first.wait_for(timeout=180000)
    for _ in range(5):  # a busy machine may lose a key
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        try:
            page.wait_for_function(
                "/\\[(\\*|\\d+)\\]/.test(document.querySelector('.jp-Notebook .jp-CodeCell"
                " .jp-InputPrompt')?.textContent ?? '')",
                timeout=20000,
            )
        except TimeoutError:
            continue
        break
    page.wait_for_selector(".cgs [data-word]", timeout=180000)
    return page
