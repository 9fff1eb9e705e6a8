"""Importing a module loads no heavy package that only some of its functions need."""

import subprocess
import sys

import pytest

HEAVY = (
    "IPython",
    "accelerate",
    "cv2",
    "matplotlib",
    "pandas",
    "scipy",
    "seaborn",
    "skimage",
    "sklearn",
    "torch",
    "torch._dynamo",
    "torchvision",
    "transformers",
)
# Heavy packages that importing the module may load; what these import themselves is not counted.
ALLOWED = {
    "core.runtime": {"torch"},
    "features.extractor": {"torch"},
    "models.s2vt": {"torch"},
    "explain.cgvs": {"torch"},
    "explain.cgvs_video": {"torch"},
    "train.loop": {"torch"},
    "evaluate.multi_seed": {"torch", "pandas"},
    "evaluate.method_comparison": {"torch", "pandas"},
    "app.cli": set(),
}
SCRIPT = """
import importlib, sys
for package in sys.argv[2].split(","):
    if package:
        importlib.import_module(package)
present = set(sys.modules)
importlib.import_module(sys.argv[1])
print(*(set(sys.modules) - present))
"""


def loaded_packages(module: str, allowed: set[str]) -> set[str]:
    "Return the heavy packages that importing the module loads in a new process, beyond the allowed ones."
    command = [sys.executable, "-c", SCRIPT, module, ",".join(sorted(allowed))]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(HEAVY) & set(result.stdout.split())


@pytest.mark.parametrize("module", ALLOWED)
def test_importing_a_module_loads_no_other_heavy_package(module):
    assert loaded_packages(f"cgsaliency.{module}", ALLOWED[module]) == set()


def test_a_heavy_import_is_detected():
    assert "pandas" in loaded_packages("cgsaliency.reproduce.status", set())
