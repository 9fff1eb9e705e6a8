"""Submit a job of Snakemake to Kubernetes and print the job's name.

Usage: `submit.py --cpus N --memory MIB --gpus N --minutes N --disk MB SCRIPT`."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
for name in ("cpus", "memory", "gpus", "minutes", "disk"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("script")
args = parser.parse_args()
name = f"cgsaliency-{uuid.uuid4().hex[:12]}"
script_copy = Path(".make/kubernetes").resolve() / f"{name}.sh"  # Snakemake removes the original when it ends
script_copy.parent.mkdir(parents=True, exist_ok=True)
shutil.copyfile(args.script, script_copy)
job = Path(__file__).with_name("job.json").read_text()
for key, value in {
    "NAME": name,
    "FOLDER": os.getcwd(),
    "SCRIPT": str(script_copy),
    "CPUS": args.cpus,
    "MEMORY": f"{args.memory}Mi",
    "GPUS": args.gpus,
    "SECONDS": 60 * int(args.minutes),
    "DISK": f"{args.disk} MB",
}.items():
    job = job.replace(f'"{key}"', json.dumps(value))
completed = subprocess.run(["kubectl", "create", "-f", "-"], input=job, text=True, capture_output=True)
if completed.returncode:
    sys.exit(f"kubectl rejects the job: {completed.stderr.strip()}")
print(name)
