"""Gates: whether there are explanations, and whether they depend on the learner's weights."""

import torch
from torch import Tensor, nn

from lsx.metrics import randomisation
from lsx.metrics.context import Context
from lsx.metrics.encoder import fresh
from lsx.metrics.maps import explain, own_config
from lsx.metrics.registry import NotApplicable, register
from lsx.metrics.score import Score, informative, mean

CONSTANT = "constant before or after"
# Away from the seeds of training: weights drawn anew must not be those that the learner started from.
SEED_OFFSET = 2**32


@register(
    "degenerate_maps",
    direction="minimize",
    low=0,
    high=1,
    meaning="share of the learner's explanations that are constant or not finite",
    groups=("standard", "sanity"),
)
def _degenerate_maps(context: Context) -> float:
    return 1 - float(informative(context.own.own).float().mean())


@register(
    "randomisation",
    direction="minimize",
    low=-1,
    high=1,
    meaning="rank correlation of the learner's maps with those of the same network with weights drawn anew",
    groups=("sanity",),
)
def _randomisation(context: Context) -> Score:
    own, randomised = context.own.sample[: len(context.few)], _randomised_maps(context)
    return mean(randomisation.rank_correlation(own, randomised), CONSTANT)


@register(
    "randomisation_cosine",
    direction="minimize",
    low=-1,
    high=1,
    meaning="cosine similarity of the learner's maps with those of the same network with weights drawn anew",
    groups=("sanity",),
)
def _randomisation_cosine(context: Context) -> Score:
    own, randomised = context.own.sample[: len(context.few)], _randomised_maps(context)
    return mean(randomisation.cosine_similarity(own, randomised), CONSTANT)


@register(
    "randomisation_cascade",
    direction="minimize",
    low=-1,
    high=1,
    meaning="rank correlation with the maps after weights were drawn anew from the last layer down, mean over layers",
    groups=("sanity",),
)
def _randomisation_cascade(context: Context) -> Score:
    own = context.own.sample[: len(context.few)]
    networks = randomisation.cascade(context.learner, _fresh(context))
    steps = [randomisation.rank_correlation(own, _explain(context, network)) for network in networks]
    return mean(torch.stack(steps).mean(dim=0), CONSTANT)


def _randomised_maps(context: Context) -> Tensor:
    return context.once("randomised maps", lambda: _explain(context, _fresh(context)))


def _fresh(context: Context) -> nn.Module:
    """The learner's architecture with weights drawn anew."""
    name, dataset = context.config.model.name, context.dataset
    network = fresh(name, dataset.image_shape, dataset.num_classes, context.seed + SEED_OFFSET, context.device)
    if not randomisation.same_architecture(context.learner, network):
        raise NotApplicable(f"the learner is no {name} (model.name), so its weights cannot be drawn anew")
    return network


def _explain(context: Context, network: nn.Module) -> Tensor:
    """Its maps of the classes that the learner's maps explain."""
    few, settings = context.few, own_config(context.config)
    targets = context.targets[: len(few)]
    return explain(network, few, settings, context.batch_size, seed=context.seed, targets=targets).sample
