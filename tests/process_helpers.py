"""Work that a process of its own does, and that is killed at a chosen moment.

One parent forks all processes, so that torch is imported once.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path


def script_environment(**changes: str) -> dict[str, str]:
    "Return the environment for a script: Python finds the package and the helpers of the tests."
    tests = Path(__file__).resolve().parent
    paths = [str(tests), str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | changes


def fork(work: Callable) -> int:
    "Fork a process that does the work, and return its id. It exits with 0, or with 1 and a message if the work raises."
    process_id = os.fork()
    if not process_id:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return process_id


def was_killed(process_id: int) -> bool:
    "Wait for the forked process, and return whether it was killed (True) or ended (False)."
    _, status = os.waitpid(process_id, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"exit status {os.WEXITSTATUS(status)}"
    return os.WIFSIGNALED(status)


def killed_in_fork(work: Callable) -> bool:
    "Do the work in a forked process, and return whether it was killed (True) or ended (False)."
    return was_killed(fork(work))


def kill_self() -> None:
    "Kill this process with SIGKILL."
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_rename(work: Callable, index: int, after: bool) -> None:
    "Do the work, and kill this process before or after the file with this index is renamed into place."
    original_replace = os.replace
    count = iter(range(10**6))

    def replace(*paths):
        at_index = next(count) == index
        if at_index and not after:
            kill_self()
        original_replace(*paths)
        if at_index:
            kill_self()

    os.replace = replace
    work()


def rename_kill_points(num_renames: int) -> list[str]:
    "Return the names of the moments before and after each rename, in order."
    return [f"{index}-{after}" for index in range(num_renames) for after in (False, True)]


def kill_at_each_rename(
    folder: Path,
    work: Callable[[Path, Path], object],  # of the working folder and the log file
    num_renames: int,  # how many renames the work makes
    resumed_runs: Sequence[str] = ("second",),  # names of the runs after the kill
) -> None:
    """Do the work undisturbed in folder/undisturbed, and in folder/POINT for each of `rename_kill_points`: killed at
    that point, then to its end once for each resumed run. Logs are undisturbed.log, POINT.first and POINT.RUN. Raises
    AssertionError if the work makes fewer or more renames."""
    assert not killed_in_fork(lambda: work(folder / "undisturbed", folder / "undisturbed.log"))
    for point in rename_kill_points(num_renames):
        index, after = point.split("-")
        first_run = partial(work, folder / point, folder / f"{point}.first")
        assert killed_in_fork(partial(kill_at_rename, first_run, int(index), after == "True")), f"{point}: no rename"
        for run in resumed_runs:
            assert not killed_in_fork(partial(work, folder / point, folder / f"{point}.{run}"))
    last_run = partial(work, folder / "last", folder / "last.log")
    assert not killed_in_fork(partial(kill_at_rename, last_run, num_renames, False)), "there are more renames"
