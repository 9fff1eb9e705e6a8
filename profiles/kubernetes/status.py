"""Say what became of a job: `status.py NAME` prints running, success or failed, as Snakemake asks."""

import json
import subprocess
import sys
from pathlib import Path

space = json.loads(Path(__file__).with_name("job.json").read_text())["metadata"]["namespace"]
answer = subprocess.run(
    ["kubectl", "get", "job", sys.argv[1], "--namespace", space, "--output", "json"], text=True, capture_output=True
)
if answer.returncode:
    print("failed" if "NotFound" in answer.stderr else "running")  # an answer that does not come is no failure
else:
    state = json.loads(answer.stdout).get("status", {})
    print("success" if state.get("succeeded") else "failed" if state.get("failed") else "running")
