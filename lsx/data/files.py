"""Paths that a user gives, and NPZ files, with one line for every way in which they can be unfit."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsx.errors import DataError


def place(root: str) -> Path:
    """``data.root`` with the home folder put in for ``~``; it need not exist.

    Raises:
        DataError: no path can be like that.
    """
    try:
        path = Path(root).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user
        raise DataError(f"data.root {root!r} cannot be used: {error}") from None
    return path


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of those names in an NPZ file; nothing in it is ever executed.

    Raises:
        DataError: not there, not an NPZ file, damaged, with a name missing, or with pickled objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        known = isinstance(error, OSError) and error.strerror
        raise DataError(f"'{path}' cannot be read: {known or 'it is not an NPZ file, or is damaged'}") from None
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise DataError(f"'{path}' is a single array; an NPZ file with {', '.join(required)} is needed (numpy.savez)")
    with loaded as file:
        missing = [name for name in required if name not in file.files]
        if missing:
            there = ", ".join(sorted(file.files)) or "nothing"
            raise DataError(f"'{path}' has no {missing[0]!r}; needed: {', '.join(required)}; there is {there}")
        return {name: _array(file, name, path) for name in (*required, *optional) if name in file.files}


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _array(file: "np.lib.npyio.NpzFile", name: str, path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file[name]
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(f"'{path}': {name} holds Python objects, which are not loaded; save plain arrays") from None
        raise DataError(f"'{path}': {name} is damaged: {error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"'{path}': {name} is damaged: {error}") from None
    return array
