"""How well explanations tell classes apart."""

from collections.abc import Callable

from torch import Tensor

from lsx.metrics import separability
from lsx.metrics.context import Context
from lsx.metrics.registry import INFINITY, register
from lsx.metrics.score import Score
from lsx.models import encode, evaluating

GROUPS = ("standard", "separability")


def _register(prefix: str, suffix: str, whose: str, maps: Callable[[Context], Tensor]) -> None:
    @register(
        f"{prefix}ridge{suffix}",
        direction="maximize",
        low=0,
        high=1,
        meaning=f"accuracy of a ridge classifier on explanations {whose}",
        groups=GROUPS,
    )
    def ridge(context: Context) -> Score:
        return separability.ridge(maps(context), context.part.labels)

    @register(
        f"{prefix}iies{suffix}",
        direction="minimize",
        low=0,
        high=INFINITY,
        meaning=f"spread within classes over distance between them, explanations {whose}",
        groups=GROUPS,
    )
    def iies(context: Context) -> Score:
        network = context.encoder
        with evaluating(network):
            return separability.iies(
                maps(context), context.part.labels, lambda batch: encode(network, batch), context.batch_size
            )


_register("", "", "by the learner's own explainer, normalized per sample", lambda context: context.own.sample)
_register("", "_own", "by the learner's own explainer, normalized as in its training", lambda context: context.own.own)
_register("reference_", "", "by the reference explainer, the same for every learner", lambda context: context.reference)
_register(
    "control_",
    "",
    "of an untrained learner by the reference explainer: the number to beat",
    lambda context: context.control,
)
