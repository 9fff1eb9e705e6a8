"""Notebooks that run in forks of a server: their reports, failures, signals and records."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from cgsaliency.reproduce import notebook_server
from cgsaliency.reproduce.notebook_server import THREAD_VARIABLES, NotebookServer
from cgsaliency.reproduce.run_section import SERVER_VARIABLE, send_request

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(THREAD_VARIABLES, "1")}
PARAMETERS = [f'{name} = ""' for name in ("scale", "data", "artifacts", "reports")]
CELLS = [
    "import os, sys, matplotlib.pyplot as plt, pandas as pd, torch\nfrom tqdm.auto import tqdm",
    "print(__name__, os.getcwd() == os.path.realpath(os.getcwd()), sorted(name for name in dir() if name[0] != '_'))",
    "print(torch.get_num_threads(), torch.manual_seed(0).initial_seed(), torch.rand(3))\n"
    "pd.DataFrame([range(30)], columns=[f'column {k}' for k in range(30)])",
    "print(tqdm.__module__)\nfor _ in tqdm(range(3)):\n    pass",
    "torch.set_num_threads(2)\nvalues = torch.randn(400, 400) @ torch.randn(400, 400)\nvalues.sum()",
    "plt.figure(figsize=(2, 1))\nplt.plot([0, 1])\nplt.title('title');",
    "print(f'{__import__(\"warnings\").filters}'.count('\\n'), 'to stderr', file=sys.stderr)",
]


def write_project(folder, *sources):
    "Write a project with one notebook."
    cells = [nbformat.v4.new_code_cell("\n".join(PARAMETERS), metadata={"tags": ["parameters"]}, id="parameters")]
    cells += [nbformat.v4.new_code_cell(source, id=f"cell{k}") for k, source in enumerate(sources)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    (folder / "nbs/papers/cgvs").mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, folder / "nbs/papers/cgvs/table1.ipynb")


def start(folder, address="", **environment):
    "Start the notebook of the project; an empty address means no server."
    command = [sys.executable, "-m", "cgsaliency.reproduce.run_section", "cgvs/table1", "smoke", "d", "a", "reports"]
    environment = {**ENVIRONMENT, SERVER_VARIABLE: address, **environment}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def run(folder, address="", **environment):
    "Run the notebook of the project and return exit status and stderr."
    process = start(folder, address, **environment)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def printed(folder):
    "Return what the last cell printed."
    return nbformat.read(folder / "reports/cgvs/table1.ipynb", 4).cells[-1].outputs[0].text.strip()


def runs(pid):
    "Return whether the process runs."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=20):
    "Wait until the condition holds, and return whether it does."
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def start_server():
    "Yield a function that starts a server, whose command waits for the end of its input."
    processes = []

    def begin():
        script = f"import os, sys; print(os.environ['{SERVER_VARIABLE}'], flush=True); sys.stdin.read(); sys.exit(5)"
        command = [sys.executable, "-m", "cgsaliency.reproduce.notebook_server", sys.executable, "-c", script]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, text=True, **pipes)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield begin
    for process in processes:
        process.stdin.close()
        assert process.wait(timeout=60) in (5, -signal.SIGKILL), "the exit status of the server is its command's"


@pytest.fixture(scope="module")
def address(start_server):
    "Return the address of a server."
    if sys.platform != "linux":
        pytest.skip("there are no forks")
    return start_server()[1]


def test_reports_with_and_without_server_are_byte_equal(tmp_path, address):
    write_project(tmp_path, *CELLS)
    files = []
    for server in ("", address):
        assert run(tmp_path, server) == (0, "")
        files.append({name: (tmp_path / f"reports/cgvs/table1.{name}").read_bytes() for name in ("ipynb", "html")})
    assert files[0] == files[1]
    assert b"image/png" in files[0]["ipynb"], "there is a figure"


def test_only_forks_start_with_imported_modules(tmp_path, address):
    write_project(tmp_path, "import sys; print('papermill' in sys.modules)")
    expected = {"": "False", address: "True", f"{address}-missing": "False"}
    for server, text in expected.items():
        assert run(tmp_path, server) == (0, "") and printed(tmp_path) == text
    assert run(tmp_path, address, OMP_NUM_THREADS="2") == (0, "")
    assert printed(tmp_path) == "False", "a request with another number of threads is refused"


def test_the_record_has_the_memory_and_the_processor_time_of_the_kernel(tmp_path, address):
    records = []
    for source in ("0", "values = bytearray(2**29)\nfor k in range(0, 2**29, 4096):\n    values[k] = 1"):
        write_project(tmp_path, source)
        assert run(tmp_path, address) == (0, "")
        records.append(json.loads((tmp_path / "reports/cgvs/table1.run.json").read_text()))
    assert records[1]["memory_gib"] - records[0]["memory_gib"] == pytest.approx(0.5, abs=0.1)
    assert records[0]["cpu_seconds"] < 3 and records[0]["memory_gib"] > 0.1


def test_environment_and_seeds_of_a_fork_are_its_own(tmp_path, address):
    source = "import os, random, numpy\nprint(os.environ['COLOR'], random.random(), numpy.random.rand())"
    write_project(tmp_path, source)
    outputs = []
    for color in ("red", "blue"):
        assert run(tmp_path, address, COLOR=color) == (0, "")
        outputs.append(printed(tmp_path).split())
    assert [output[0] for output in outputs] == ["red", "blue"]
    assert outputs[0][1] != outputs[1][1] and outputs[0][2] != outputs[1][2]


def test_a_failing_cell_fails_as_without_server(tmp_path, address):
    write_project(tmp_path, "1 / 0")
    failed = tmp_path / "reports/cgvs/table1.failed.ipynb"
    results = []
    for server in ("", address):
        results.append(run(tmp_path, server))
        assert failed.is_file()
        failed.unlink()
    assert results[0] == results[1]
    assert results[0][0] == 1 and "cell 3 failed: ZeroDivisionError" in results[0][1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_ends_fork_and_kernel(tmp_path, address, number):
    pids = tmp_path / "pids"
    source = f"import os, time\nopen({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}')\ntime.sleep(300)"
    write_project(tmp_path, source)
    process = start(tmp_path, address)
    assert wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    kernel, fork = map(int, pids.read_text().split())
    assert runs(kernel) and runs(fork)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert wait_until(lambda: not runs(kernel) and not runs(fork))


def test_a_fork_keeps_the_lock_of_the_killed_process_until_it_ends(tmp_path, address):
    started, lock = tmp_path / "started", tmp_path / "lock"
    write_project(tmp_path, f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(300)")
    command = [sys.executable, "-m", "cgsaliency.reproduce.with_lock", str(lock), sys.executable]
    command += ["-m", "cgsaliency.reproduce.run_section", "cgvs/table1", "smoke", "d", "a", "reports"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**ENVIRONMENT, SERVER_VARIABLE: address})
    assert wait_until(started.exists)
    fork = next(int(path.parent.name) for path in Path("/proc").glob("[0-9]*/fd") if holds(path, lock, process.pid))
    process.kill()
    process.wait()
    assert wait_until(lambda: not runs(fork))
    wait = [sys.executable, "-m", "cgsaliency.reproduce.with_lock", str(lock), "true"]
    assert subprocess.run(wait, env=ENVIRONMENT, timeout=60).returncode == 0


def holds(folder, path, other):
    "Return whether another process than `other` has the file open."
    try:
        return int(folder.parent.name) != other and any(
            os.path.realpath(file) == str(path) for file in folder.iterdir()
        )
    except OSError:
        return False


def test_forks_end_with_a_killed_server(tmp_path, start_server):
    pids = tmp_path / "pids"
    source = f"import os, time\nopen({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}')\ntime.sleep(300)"
    write_project(tmp_path, source)
    server, address = start_server()
    process = start(tmp_path, address)
    assert wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    server.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "the notebook server ended before the notebook" in errors
    assert wait_until(lambda: not any(runs(pid) for pid in pids.read_text().split()))


def test_changed_code_is_not_served(tmp_path, monkeypatch):
    monkeypatch.setattr(NotebookServer, "_fork", lambda self, connection, *_: connection.close())
    answers = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        server = NotebookServer(listener, None)
        code = notebook_server.code_state()
        for state in (code, code | {"cgsaliency/train/loop.py": (0, 0)}):
            monkeypatch.setattr(notebook_server, "code_state", lambda state=state: state)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(tmp_path / "socket"))
                thread = threading.Thread(target=server._accept)
                thread.start()
                answers.append(send_request(connection, ["cgvs/table1"]))
                thread.join()
        server.selector.close()
    assert answers == [True, False]


def test_a_server_that_cannot_import_lets_notebooks_start_without_it(tmp_path):
    write_project(tmp_path, "import sys; print('papermill' in sys.modules)")
    broken = tmp_path / "broken"
    (broken / "accelerate").mkdir(parents=True)
    (broken / "accelerate/__init__.py").write_text("raise ImportError('broken')")
    script = f"""
import sys
sys.path.insert(0, {str(broken)!r})
from cgsaliency.reproduce.notebook_server import run_with_server
run_with_server(sys.executable, "-m", "cgsaliency.reproduce.run_section", "cgvs/table1", "smoke", "d", "a", "reports")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0 and "notebooks start without a server" in ended.stderr
    assert printed(tmp_path) == "False"
