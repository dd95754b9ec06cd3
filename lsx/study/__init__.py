"""Studies: a search over configurations by Ray Tune and Optuna, tracked by MLflow.

Imported late, so that ``import lsx.study`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsx.study.declared.spec import StudySpec, load
    from lsx.study.running.runner import StudyResult, run
    from lsx.study.shown.archive import Past, open_past
    from lsx.study.shown.dryrun import DryRun, dry_run

__all__ = ["DryRun", "Past", "StudyResult", "StudySpec", "dry_run", "load", "open_past", "run"]

_ROOMS = {
    "shown.archive": ("Past", "open_past"),
    "shown.dryrun": ("DryRun", "dry_run"),
    "running.runner": ("StudyResult", "run"),
    "declared.spec": ("StudySpec", "load"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"lsx.study.{_HOME[name]}"), name)
