"""The main memory that a process has had. Linux counts it of the program alone; `getrusage` gives a new process the
largest memory of the one that started it."""

import resource
import sys
from pathlib import Path


def highest_memory() -> int:
    "Return the most bytes that this process has held, since `forget_highest` where that was called."
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_highest() -> None:
    "Begin to count anew, on Linux; elsewhere nothing happens."
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then the memory of what was prepared counts, too
