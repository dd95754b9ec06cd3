"""Studies: a search over configurations by Ray Tune and Optuna, tracked by MLflow.

Imported late, so that ``import lsx.study`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsx.study.runner import StudyResult, run
    from lsx.study.spec import StudySpec, load

__all__ = ["StudyResult", "StudySpec", "load", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("lsx.study.runner" if name in ("StudyResult", "run") else "lsx.study.spec"), name)
