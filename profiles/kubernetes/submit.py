"""Submit a job of Snakemake to Kubernetes: `submit.py --cpus N --memory MIB --gpus N --minutes N --disk MB SCRIPT`. Prints the job's name."""
import argparse, json, os, shutil, subprocess, sys, uuid
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
for name in ("cpus", "memory", "gpus", "minutes", "disk"): parser.add_argument(f"--{name}", required=True)
parser.add_argument("script")
given = parser.parse_args()
name = f"cgsaliency-{uuid.uuid4().hex[:12]}"
kept = Path(".make/kubernetes").resolve() / f"{name}.sh"      # Snakemake removes its own when it ends
kept.parent.mkdir(parents=True, exist_ok=True)
shutil.copyfile(given.script, kept)
job = Path(__file__).with_name("job.json").read_text()
for key, value in {"NAME": name, "FOLDER": os.getcwd(), "SCRIPT": str(kept), "CPUS": given.cpus, "MEMORY": f"{given.memory}Mi", "GPUS": given.gpus, "SECONDS": 60 * int(given.minutes), "DISK": f"{given.disk} MB"}.items(): job = job.replace(f'"{key}"', json.dumps(value))
done = subprocess.run(["kubectl", "create", "-f", "-"], input=job, text=True, capture_output=True)
if done.returncode: sys.exit(f"kubectl refuses the job: {done.stderr.strip()}")
print(name)
