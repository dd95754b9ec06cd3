"""Errors that a user can cause and mend.

Each carries one clear line: what is wrong, the value, what is valid. Command
lines print that line and exit with status 2; anything else is a bug and keeps
its traceback.
"""

import difflib
from collections.abc import Iterable


class LSXError(ValueError):
    """Base of every error that a user's input can cause."""


class ConfigError(LSXError):
    """A setting is unknown, of the wrong type or out of its range."""


class DataError(LSXError):
    """A data source is missing, damaged or too small for what is asked of it."""


class CheckpointError(LSXError):
    """A checkpoint cannot be read or belongs to another configuration."""


class DivergedError(LSXError):
    """A loss became infinite or not a number."""


class StudyError(LSXError):
    """A study file, its storage or its tracking server cannot be used."""


def unknown(kind: str, value: object, valid: Iterable[str]) -> str:
    """One line for a misspelt name, with the nearest valid one first.

    >>> unknown("model", "Net2", ["Net1", "SimpleConvNet"])
    "unknown model 'Net2'; did you mean 'Net1'? Valid: Net1, SimpleConvNet"
    """
    names = sorted(valid)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown {kind} {str(value)!r}; {hint}Valid: {', '.join(names)}"
