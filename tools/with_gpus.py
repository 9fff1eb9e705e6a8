"""Run a command with GPUs of its own: `with_gpus.py COUNT COMMAND ...`.

Several notebooks run side by side on a machine with several GPUs: each takes COUNT of those that CUDA_VISIBLE_DEVICES
names, or of all, and is shown no others. A lock file stands for each GPU; the kernel frees it when the command ends,
however it ends. Where no more are there than are asked for, the command starts as it is: a scheduler has chosen them,
there is one, or there is none and the command computes on the CPU.
"""
import fcntl, os, platform, subprocess, sys, time
from pathlib import Path

FOLDER = Path(".make/gpus")


def visible() -> list[str]:
    "The GPUs that a process started here may use, as CUDA_VISIBLE_DEVICES names them."
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name.strip() for name in said.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(found))] if listed.returncode == 0 else []


def take(names: list[str], count: int) -> list[str]:
    "Lock as many of these GPUs, all at once; wait until so many are free. What this process becomes keeps the locks."
    FOLDER.mkdir(parents=True, exist_ok=True)
    while True:
        held = {}
        for name in names:
            descriptor = os.open(FOLDER / f"{platform.node()}-{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held[name] = descriptor
            except BlockingIOError:
                os.close(descriptor)
            if len(held) == count:
                break
        if len(held) == count:
            break
        for descriptor in held.values():
            os.close(descriptor)
        time.sleep(2)
    for descriptor in held.values():
        os.set_inheritable(descriptor, True)
    return list(held)


def main(count: int, *command: str) -> None:
    names = visible()
    if 0 < count < len(names):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(names, count))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
