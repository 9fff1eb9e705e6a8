"""Work that is done in a process of its own and dies at a chosen moment. One parent forks them all, so that torch is imported once."""
import os, signal, sys
from typing import Callable


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
