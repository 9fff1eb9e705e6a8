"""The peak main memory of a process. Linux counts that of the process alone; with `getrusage` a new process inherits
the peak of its parent process."""

import resource
import sys
from pathlib import Path


def highest_memory() -> int:
    "Return the peak memory of this process in bytes, since the last call of `forget_highest`."
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_highest() -> None:
    "Reset the peak memory on Linux; do nothing elsewhere."
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # the peak then includes the memory of the preparation
