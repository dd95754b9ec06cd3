"""How long a driver waits for what is away; an environment variable says otherwise."""

import os

from lsx.errors import StudyError
from lsx.study.declared.sections import seconds


def patience(variable: str, default: float) -> float:
    """Seconds to wait.

    Args:
        variable: of the environment; seconds, or a text such as ``10m``.
        default: where it is not set.

    Raises:
        StudyError: it is set to no such text.
    """
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        found = seconds(text)
    except ValueError as error:
        raise StudyError(f"environment variable {variable} is not valid: {error}") from None
    assert isinstance(found, float)
    return found
