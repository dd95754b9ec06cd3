"""How much of an explanation lies on the confounder (lower is better), or on the object (``foreground_``, higher)."""

from collections.abc import Callable

from torch import Tensor

from lsx.metrics import localization
from lsx.metrics.context import Context
from lsx.metrics.localization import UNRANKED
from lsx.metrics.registry import Direction, register
from lsx.metrics.score import Score, mean

_FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "relevance_mass": (localization.relevance_mass, "share of positive relevance inside the {}"),
    "rank_accuracy": (localization.rank_accuracy, "share of the |mask| most relevant pixels inside the {}"),
    "pointing_game": (localization.pointing_game, "share of images whose most relevant pixel is inside the {}"),
}


def _register(prefix: str, name: str, foreground: bool, whose: str) -> None:
    function, meaning = _FUNCTIONS[name]
    direction: Direction = "maximize" if foreground else "minimize"
    groups = ("localization", "foreground") if foreground else ("standard", "localization")

    @register(
        f"{prefix}foreground_{name}" if foreground else f"{prefix}{name}",
        direction=direction,
        low=0,
        high=1,
        meaning=f"{meaning.format('object' if foreground else 'mask')}, {whose}",
        groups=groups,
    )
    def localized(context: Context) -> Score:
        masks = context.foreground if foreground else context.masks
        # Batch normalization scales, which no share depends on; but a whole batch may have no positive relevance.
        maps = context.reference if prefix else context.own.own
        return mean(function(maps, masks), UNRANKED)


for _foreground in (False, True):
    for _name in _FUNCTIONS:
        _register("", _name, _foreground, "by the learner's own explainer")
        _register("reference_", _name, _foreground, "by the reference explainer, the same for every learner")
