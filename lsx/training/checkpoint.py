"""Checkpoints: tensors and plain data, written whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import torch

from lsx.errors import CheckpointError

FORMAT = 1
FIELDS = {"format", "config", "data", "stage", "epoch", "position", "learner", "teacher", "optimizer", "random"}


def save(state: dict[str, Any], path: str | Path) -> Path:
    """Write a training state; an older file at ``path`` survives a failure half-way.

    Raises:
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                _write(state, file)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be written: {error.strerror or error}") from None
    return path


def _write(state: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # torch's own, about its position in the file, hides the disk's
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load(path: str | Path) -> dict[str, Any]:
    """Read a training state onto the CPU; nothing in the file is executed (``weights_only=True``).

    Raises:
        CheckpointError: missing, damaged, or not a checkpoint of lsx.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch looks for the end of a file that was cut off, before its beginning
            raise CheckpointError(f"checkpoint {str(path)!r} is damaged, or is no checkpoint of lsx") from None
        raise CheckpointError(f"checkpoint {str(path)!r} cannot be read: {error.strerror or error}") from None
    except Exception:  # torch raises many types for damaged files, with pages of text on its own format
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged, or is no checkpoint of lsx") from None
    if not isinstance(state, dict) or not state.keys() >= FIELDS:
        raise CheckpointError(f"checkpoint {str(path)!r} is no checkpoint of lsx")
    if state["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r} has format {state['format']}; this version reads {FORMAT}")
    return state
