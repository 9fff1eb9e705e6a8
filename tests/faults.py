"""What several tests ask of an error: that whoever reads it knows where to look and what to do."""
from pathlib import Path
from typing import Callable

import pytest

from cgsaliency.core.errors import BadInput


def refused(use: Callable, *says: str) -> BadInput:
    "The BadInput that the use raises: it says all of that, and its two sentences name the place and the remedy."
    with pytest.raises(BadInput) as caught: use()
    error = caught.value
    assert all(one in str(error) for one in says), error
    assert error.where and error.remedy and str(error).count(error.remedy) == 1, error
    return error


def spoil(path: Path, says: str | bytes | None) -> None:
    "Nothing; the file says that instead, or is not there."
    if says is None: path.unlink()
    else: path.write_bytes(says if isinstance(says, bytes) else says.encode())
