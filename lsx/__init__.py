"""CNN-LSX, *Learning by Self-Explaining* (arXiv 2309.08395): a learner taught by a critic of its explanations.

Names are imported when they are first used, so that ``lsx --help`` does not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsx import data, explainers, metrics, models
    from lsx.config import STAGES, Config
    from lsx.data import Dataset, Split
    from lsx.data import load as load_data
    from lsx.errors import LSXError
    from lsx.explainers import Explainer
    from lsx.metrics import evaluate
    from lsx.progress import Progress
    from lsx.training import Report, Trainer, fit, load_learner

__version__ = "0.1.0"

__all__ = [
    "STAGES",
    "Config",
    "Dataset",
    "Explainer",
    "LSXError",
    "Progress",
    "Report",
    "Split",
    "Trainer",
    "data",
    "evaluate",
    "explainers",
    "fit",
    "load_data",
    "load_learner",
    "metrics",
    "models",
]

_ROOMS = {
    "config": ("STAGES", "Config"),
    "data": ("Dataset", "Split"),
    "errors": ("LSXError",),
    "explainers": ("Explainer",),
    "metrics": ("evaluate",),
    "progress": ("Progress",),
    "training": ("Report", "Trainer", "fit", "load_learner"),
}
_HOME = {name: (room, name) for room, names in _ROOMS.items() for name in names} | {"load_data": ("data", "load")}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room, attribute = _HOME.get(name, (name, ""))
    module = import_module(f"lsx.{room}")
    return getattr(module, attribute) if attribute else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
