"""Work that is done in a process of its own and dies at a chosen moment. One parent forks them all, so that torch is imported once."""
import os, signal, sys
from pathlib import Path
from typing import Callable, Sequence


def forked(work: Callable) -> int:
    "The number of a process that does the work and ends: with status 0, or with 1 and a message where the work raises."
    number = os.fork()
    if not number:
        try: work()
        except BaseException as fault:
            print(repr(fault), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return number


def was_killed(number: int) -> bool:
    "Whether the forked process was killed; False where it came to its end. Waits for it."
    _, status = os.waitpid(number, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"exit status {os.WEXITSTATUS(status)}"
    return os.WIFSIGNALED(status)


def killed(work: Callable) -> bool:
    "Whether the work, done by a forked process, was killed; False where it came to its end."
    return was_killed(forked(work))


def die() -> None: os.kill(os.getpid(), signal.SIGKILL)


def dying_at_rename(work: Callable, which: int, after: bool) -> None:
    "Does the work, and dies before or after its n-th file is renamed into place."
    rename, count = os.replace, iter(range(10**6))

    def replace(*paths):
        now = next(count) == which
        if now and not after: die()
        rename(*paths)
        if now: die()
    os.replace = replace
    work()


def rename_moments(renames: int) -> list[str]:
    "Return the names of the moments before and after each rename, in their order."
    return [f"{which}-{after}" for which in range(renames) for after in (False, True)]


def kill_at_each_rename(
    folder: Path,
    work: Callable[[Path, Path], object],   # of the folder that it works in and the file of its log
    renames: int,                           # how many the work makes
    again: Sequence[str] = ("second",),     # runs after the kill
) -> None:
    """Do the work undisturbed in folder/undisturbed, and in folder/MOMENT for each of `rename_moments`: killed there,
    then to its end as often as asked. Logs are undisturbed.log, MOMENT.first and MOMENT.RUN. Raises AssertionError
    where the work makes fewer or more renames."""
    assert not killed(lambda: work(folder / "undisturbed", folder / "undisturbed.log"))
    for moment in rename_moments(renames):
        which, after = moment.split("-")
        first = lambda: work(folder / moment, folder / f"{moment}.first")
        assert killed(lambda: dying_at_rename(first, int(which), after == "True")), f"{moment}: no rename any more"
        for run in again:
            assert not killed(lambda: work(folder / moment, folder / f"{moment}.{run}"))
    last = lambda: work(folder / "last", folder / "last.log")
    assert not killed(lambda: dying_at_rename(last, renames, False)), "there are more moments than were tried"
