"""Infidelity, max-sensitivity and sparseness of the learner's own explanations: constraints, not objectives."""

from torch import Tensor

from lsx import explainers
from lsx.metrics import complexity, perturbation
from lsx.metrics.accuracy import at_a_time
from lsx.metrics.context import Context
from lsx.metrics.maps import attributions, own_config
from lsx.metrics.registry import INFINITY, register
from lsx.metrics.score import Score, mean
from lsx.models import evaluating

CONSTANT = "constant or not finite"


@register(
    "infidelity",
    direction="minimize",
    low=0,
    high=1,
    meaning="squared change of the explained class's probability under noise that the map does not account for",
    groups=("robustness",),
)
def _infidelity(context: Context) -> Score:
    settings, few = context.config.evaluation, context.few
    values = perturbation.infidelity(
        context.learner,
        few.images,
        context.own.sample[: len(few)],
        context.targets[: len(few)],
        noise=settings.perturbation,
        copies=settings.perturbations,
        seed=context.seed,
        batch_size=at_a_time(few.images, context.batch_size),
    )
    return mean(values, CONSTANT)


@register(
    "max_sensitivity",
    direction="minimize",
    low=0,
    high=INFINITY,
    meaning="largest relative change of the map under small noise on the image",
    groups=("robustness",),
)
def _max_sensitivity(context: Context) -> Score:
    settings, few = context.config.evaluation, context.few
    explainer = explainers.build(own_config(context.config))

    def explain(images: Tensor, targets: Tensor) -> Tensor:
        raw = attributions(explainer, context.learner, images, targets, context.batch_size)
        return explainer.postprocess(raw, images, 1).detach()

    with evaluating(context.learner):
        values = perturbation.max_sensitivity(
            explain,
            few.images,
            context.targets[: len(few)],
            radius=settings.perturbation,
            copies=settings.perturbations,
            seed=context.seed,
            batch_size=at_a_time(few.images, context.batch_size),
        )
    return mean(values, CONSTANT)


@register(
    "sparseness",
    direction="maximize",
    low=0,
    high=1,
    meaning="Gini index of the absolute attribution: 0 equal pixels, near 1 a single one",
    groups=("robustness",),
)
def _sparseness(context: Context) -> Score:
    return mean(complexity.sparseness(context.own.sample), CONSTANT)
