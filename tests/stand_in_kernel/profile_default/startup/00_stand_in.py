"""Make the kernel's 'cuda' the stand-in of tests/stand_in_device.py: with IPYTHONDIR at tests/stand_in_kernel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from stand_in_device import StandIn  # noqa: E402

_stand_in = StandIn()
_stand_in.__enter__()
