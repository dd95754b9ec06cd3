"""Whether the learner classifies correctly."""

from lsx.metrics.accuracy import accuracy
from lsx.metrics.context import Context
from lsx.metrics.registry import register


@register(
    "accuracy",
    direction="maximize",
    low=0,
    high=1,
    meaning="share of images classified correctly",
    groups=("standard", "accuracy"),
)
def _accuracy(context: Context) -> float:
    return accuracy(context.learner, context.whole, context.batch_size)
