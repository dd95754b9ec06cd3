"""What every key of an evaluation means: direction, range, one line."""

from typing import Literal, NamedTuple

Direction = Literal["maximize", "minimize"]


class Metric(NamedTuple):
    """One key of :func:`lsx.metrics.evaluate`.

    Attributes:
        direction: which way is better. For localization it supposes that the mask marks a confounder (the decoy
            patch), as every mask in ``lsx.data`` does; for a mask of the object itself it is the reverse.
        low, high: range; ``high`` may be infinite.
        meaning: one line.
    """

    direction: Direction
    low: float
    high: float
    meaning: str

    @property
    def arrow(self) -> str:
        """``↑`` or ``↓``."""
        return "↑" if self.direction == "maximize" else "↓"


INFINITY = float("inf")
_COMPREHENSIVENESS = "removing the explained pixels instead of random ones"
_SUFFICIENCY = "keeping the explained pixels instead of random ones"
_REFERENCE = "by the reference explainer, the same for every learner"


def _faithfulness(prefix: str, suffix: str, unit: str) -> dict[str, Metric]:
    return {
        f"{prefix}comprehensiveness{suffix}": Metric(
            "maximize", -100, 100, f"{unit} lost by {_COMPREHENSIVENESS}, percentage points"
        ),
        f"{prefix}sufficiency{suffix}": Metric(
            "minimize", -100, 100, f"{unit} lost by {_SUFFICIENCY}, percentage points"
        ),
    }


def _separability(prefix: str, suffix: str, whose: str) -> dict[str, Metric]:
    return {
        f"{prefix}ridge{suffix}": Metric("maximize", 0, 1, f"accuracy of a ridge classifier on explanations {whose}"),
        f"{prefix}iies{suffix}": Metric(
            "minimize", 0, INFINITY, f"spread within classes over distance between them, explanations {whose}"
        ),
    }


def _localization(prefix: str, whose: str) -> dict[str, Metric]:
    return {
        f"{prefix}relevance_mass": Metric("minimize", 0, 1, f"share of positive relevance inside the mask, {whose}"),
        f"{prefix}rank_accuracy": Metric(
            "minimize", 0, 1, f"share of the |mask| most relevant pixels inside the mask, {whose}"
        ),
        f"{prefix}pointing_game": Metric(
            "minimize", 0, 1, f"share of images whose most relevant pixel is inside the mask, {whose}"
        ),
    }


METRICS: dict[str, Metric] = {
    "accuracy": Metric("maximize", 0, 1, "share of images classified correctly"),
    "degenerate_maps": Metric("minimize", 0, 1, "share of the learner's explanations that are constant or not finite"),
    **_faithfulness("", "", "equal pixel counts: predicted class's probability"),
    **_faithfulness("authors_", "", "pixels by value, the authors' form: accuracy"),
    **_faithfulness("authors_", "_probability", "pixels by value, the authors' form: predicted class's probability"),
    **_faithfulness("reference_", "", "equal pixel counts, by the reference explainer: predicted class's probability"),
    **_separability("", "", "by the learner's own explainer, normalized per sample"),
    **_separability("", "_own", "by the learner's own explainer, normalized as in its training"),
    **_separability("reference_", "", _REFERENCE),
    **_separability("control_", "", "of an untrained learner by the reference explainer: the number to beat"),
    **_localization("", "by the learner's own explainer"),
    **_localization("reference_", _REFERENCE),
}
"""Every key that an evaluation can have. ``*iies*`` is absent when ``evaluation.encoder_epochs`` is 0 and no encoder
is given; localization is absent where a split has no masks."""
