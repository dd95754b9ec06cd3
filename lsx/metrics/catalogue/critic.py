"""How well a new critic learns from explanations, normalized per sample: the purpose that LSX trains them for."""

from typing import Literal

from torch import Tensor

from lsx.metrics import newcritic
from lsx.metrics.context import Context
from lsx.metrics.encoder import cached, fingerprint, fresh, small_network
from lsx.metrics.newcritic import Learnt
from lsx.metrics.registry import INFINITY, register
from lsx.metrics.score import Score

Lesson = Literal["own", "reference", "control", "input"]


def _learnt(context: Context, lesson: Lesson) -> Learnt:
    maps = context.part.images if lesson == "input" else context.maps(lesson)
    if lesson == "reference" and maps is context.own.sample:
        lesson = "own"
    return context.once(("new critic", lesson), lambda: _learn(context, maps, lesson in ("control", "input")))


def _learn(context: Context, maps: Tensor, lasting: bool) -> Learnt:
    """``lasting``: the same for every learner of a study, so made once per process."""
    dataset, labels = context.dataset, context.part.labels
    name, epochs = (
        context.config.critic.model or small_network(dataset.image_shape),
        context.config.evaluation.critic_epochs,
    )

    def make() -> Learnt:
        critic = fresh(name, dataset.image_shape, dataset.num_classes, context.seed, context.device)
        return newcritic.learn(critic, maps, labels, epochs, context.seed)

    if not lasting:
        return make()
    key = (
        "new critic",
        fingerprint(maps, labels),
        name,
        dataset.num_classes,
        epochs,
        context.seed,
        str(context.device),
    )
    return cached(key, make)


def _register(prefix: str, lesson: Lesson, what: str) -> None:
    @register(
        f"{prefix}critic_accuracy",
        direction="maximize",
        low=0,
        high=1,
        meaning=f"accuracy of a new critic on held-out {what}",
        groups=("critic",),
    )
    def accuracy(context: Context) -> Score:
        return _learnt(context, lesson).accuracy

    @register(
        f"{prefix}critic_loss_to_chance",
        direction="minimize",
        low=0,
        high=INFINITY,
        meaning=f"cross entropy of a new critic over ln K on held-out {what}",
        groups=("critic",),
    )
    def loss(context: Context) -> Score:
        return _learnt(context, lesson).loss_to_chance


_register("", "own", "explanations by the learner's own explainer")
_register("reference_", "reference", "explanations by the reference explainer, the same for every learner")
_register("control_", "control", "explanations of an untrained learner by the reference explainer: the number to beat")
_register("input_", "input", "images themselves: what there is to learn without explaining")
