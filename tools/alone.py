"""Run a command as the only one that holds a lock file: `alone.py LOCKFILE COMMAND ...`.

Others wait. The kernel frees the lock when the command ends, however it ends, so no stale lock is ever left.
"""
import fcntl, os, sys
from pathlib import Path

lock, command = Path(sys.argv[1]), sys.argv[2:]
lock.parent.mkdir(parents=True, exist_ok=True)
descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
try: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"{lock}: another run in this folder holds it; waiting until that one ends ...", file=sys.stderr, flush=True)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
os.set_inheritable(descriptor, True)  # the command keeps the lock for as long as it runs
os.execvp(command[0], command)
