"""Print what this machine has for notebooks that run side by side, as Snakemake's --resources takes it.

`limits.py [GPUS] [MEMORY]` prints `gpu=1 mem_mb=64000`; GPUS and MEMORY (GiB) replace what is found. With a limit of
0 GPUs a notebook that asks for one runs on the CPU: Snakemake asks for no more than the limit.
"""
import os, sys
from pathlib import Path

from with_gpus import visible


def memory_mib() -> int:
    "The machine's memory, or that which its container may take."
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue      # 'max', or no such file
    return min(found) // 2 ** 20


def gpus() -> int:
    "How many GPUs are there; one on a Mac with Apple silicon."
    return len(visible()) or int(sys.platform == "darwin" and os.uname().machine == "arm64")


if __name__ == "__main__":
    count, memory = (*sys.argv[1:], "", "")[:2]
    count = int(count) if count else gpus()
    memory = int(1024 * float(memory)) if memory else memory_mib()
    print(f"gpu={count} mem_mb={memory}")
