"""What the learner loses when explained pixels are removed or kept, and how fast.

The maps are the learner's own, or by the reference explainer (``reference_``).
"""

from typing import Literal

from torch import Tensor

from lsx.metrics import faithfulness, removal
from lsx.metrics.context import Context, Source
from lsx.metrics.faithfulness import FRACTIONS, THRESHOLDS, UNRANKED, Curve, Form, Kind
from lsx.metrics.registry import register
from lsx.metrics.score import Score, mean

GROUPS = ("standard", "faithfulness")
Order = Literal["own", "reference", "random"]


def _curve(context: Context, maps: Tensor, form: Form, kind: Kind) -> Curve:
    levels = THRESHOLDS if form == "authors" else FRACTIONS
    return faithfulness.curve(context.subject, maps, form, kind, levels, context.seed)


def _random_curve(context: Context, form: Form, kind: Kind) -> Curve:
    def make() -> Curve:
        return _curve(context, faithfulness.random_maps(context.few.images, context.seed), form, kind)

    return context.once(("random curve", form, kind), make)


def _shared(context: Context, source: Source) -> Source:
    """``own`` where the reference explainer's maps are the learner's own, so that the passes are made once."""
    return "own" if source == "reference" and context.reference is context.own.sample else source


def _contrast(context: Context, source: Source, form: Form, kind: Kind) -> tuple[Score, Score]:
    """Accuracy and probability lost, over those of random maps."""
    source = _shared(context, source)

    def make() -> tuple[Score, Score]:
        # Scaling does not change ranks, so maps per sample serve the equal-count form, which the reference may share.
        maps = (context.own.own if form == "authors" else context.maps(source))[: len(context.few)]
        return faithfulness.contrast(_curve(context, maps, form, kind), _random_curve(context, form, kind), maps)

    return context.once(("contrast", source, form, kind), make)


def _register_contrasts(prefix: str, source: Source, form: Form, suffix: str, what: str) -> None:
    """Comprehensiveness and sufficiency; ``suffix`` only where the accuracy lost has the plain name."""
    probability = form == "equal_count" or suffix == "_probability"
    quantity = "predicted class's probability" if probability else "accuracy"

    @register(
        f"{prefix}comprehensiveness{suffix}",
        direction="maximize",
        low=-100,
        high=100,
        meaning=f"{what}: {quantity} lost by removing the explained pixels instead of random ones, percentage points",
        groups=GROUPS,
    )
    def comprehensiveness(context: Context) -> Score:
        return _contrast(context, source, form, "comprehensiveness")[probability]

    @register(
        f"{prefix}sufficiency{suffix}",
        direction="minimize",
        low=-100,
        high=100,
        meaning=f"{what}: {quantity} lost by keeping the explained pixels instead of random ones, percentage points",
        groups=GROUPS,
    )
    def sufficiency(context: Context) -> Score:
        return _contrast(context, source, form, "sufficiency")[probability]


def _area(context: Context, order: Order, which: Literal["deletion", "insertion"]) -> Score:
    source = order if order == "random" else _shared(context, order)

    def make() -> Score:
        subject, steps = context.subject, context.config.evaluation.auc_steps
        if source == "random":
            maps = faithfulness.random_maps(subject.images, context.seed)
        else:
            maps = context.maps(source)[: len(subject.images)]
        area = removal.deletion_auc if which == "deletion" else removal.insertion_auc
        return mean(area(subject, maps, steps, context.seed), UNRANKED)

    return context.once((which, source), make)


def _register_areas(prefix: str, order: Order, whose: str) -> None:
    @register(
        f"{prefix}deletion_auc",
        direction="minimize",
        low=0,
        high=1,
        meaning=f"area under the predicted class's probability while pixels are removed, {whose}",
        groups=("faithfulness",),
    )
    def deletion(context: Context) -> Score:
        return _area(context, order, "deletion")

    @register(
        f"{prefix}insertion_auc",
        direction="maximize",
        low=0,
        high=1,
        meaning=f"area under the predicted class's probability while pixels are restored, {whose}",
        groups=("faithfulness",),
    )
    def insertion(context: Context) -> Score:
        return _area(context, order, "insertion")


_register_contrasts("", "own", "equal_count", "", "equal pixel counts")
_register_contrasts("authors_", "own", "authors", "", "pixels by value, the authors' form")
_register_contrasts("authors_", "own", "authors", "_probability", "pixels by value, the authors' form")
_register_contrasts("reference_", "reference", "equal_count", "", "equal pixel counts, by the reference explainer")
_register_areas("", "own", "most relevant first")
_register_areas("reference_", "reference", "most relevant first by the reference explainer")
_register_areas("random_", "random", "in random order: the number to beat")
