"""Assertions and file helpers that several tests use."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cgsaliency.core.errors import InputError


def assert_input_error(call: Callable, *parts: str) -> InputError:
    "Assert that the call raises an InputError with all parts in its text, a location and a hint, and return the error."
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    assert all(part in str(error) for part in parts), error
    assert error.location and error.hint and str(error).count(error.hint) == 1, error
    return error


def damage_file(path: Path, content: str | bytes | None) -> None:
    "Replace the content of the file, or delete the file where the content is None."
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def file_digests(root: Path) -> dict[str, str]:
    "Return the SHA-256 of each file by its path below the folder."
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
