"""Print the state of a job for Snakemake, running, success or failed: `status.py NAME`."""

import json
import subprocess
import sys
from pathlib import Path

namespace = json.loads(Path(__file__).with_name("job.json").read_text())["metadata"]["namespace"]
answer = subprocess.run(
    ["kubectl", "get", "job", sys.argv[1], "--namespace", namespace, "--output", "json"], text=True, capture_output=True
)
if answer.returncode:
    print("failed" if "NotFound" in answer.stderr else "running")  # a lost connection is no failure of the job
else:
    state = json.loads(answer.stdout).get("status", {})
    print("success" if state.get("succeeded") else "failed" if state.get("failed") else "running")
