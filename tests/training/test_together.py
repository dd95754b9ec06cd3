"""Seeds that train as one program: what each of them would have become alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from lsx import data, models
from lsx.chain import chain_of, explained
from lsx.config import Config, Stage
from lsx.data.types import Dataset
from lsx.errors import CheckpointError, ConfigError, DivergedError
from lsx.training import Report, Tick, Trainer
from lsx.training.fresh import Fresh
from lsx.training.stacked import Stack
from lsx.training.together import Together, obstacle
from tests.tiny import Tiny, relative_error

SEEDS = (3, 5, 6)
TOLERANCE = 1e-4
FLIPPED = 0.05
"""What is left of the tolerance where rounding turned a rectifier or the choice of a maximum, and with it a gradient:
what a trainer itself makes of first weights that differ by one unit in the last place, in some short runs."""
STAGES: tuple[Stage, ...] = ("pretrain", "joint", "finetune")
BASE = Config.build(
    {
        "device": "cpu",
        "model.name": "MLP",
        "data": {"dataset": "decoy_mnist", "few_shot_fraction": 0.03},
        "critic": {"batches": 3, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.003},
        "loss": {"lambda_e": 5.0, "lambda_ft": 20.0},
        "explainer.steps": 3,
        "finetune.schedule": "cosine",
        "evaluation.max_images": 50,
        **{f"{stage}.epochs": 2 for stage in STAGES},
        **{f"{stage}.learning_rate": 0.05 for stage in STAGES},
    }
)
"""90 training images, three steps an epoch, the last of 26 images."""
SHORT = BASE.replace({f"{stage}.epochs": 1 for stage in STAGES})


class Stop(Exception):
    """Ends training."""


@cache
def images() -> Dataset:
    whole = data.load(BASE)
    return replace(whole, validation=whole.validation.take(slice(0, 100)))


def alone(config: Config, seeds: Sequence[int] = SEEDS) -> list[Trainer]:
    trainers = [Trainer(config.replace({"seed": seed}), images()) for seed in seeds]
    for trainer in trainers:
        trainer.run()
    return trainers


def together(config: Config, seeds: Sequence[int] = SEEDS) -> tuple[Together, list[Sequence[Report]]]:
    reports: list[Sequence[Report]] = []
    trained = Together(config, seeds, images(), reports.append)
    trained.run()
    return trained, reports


def gap(one: nn.Module, other: nn.Module) -> float:
    """Largest relative difference of a weight tensor."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(relative_error(left, right) for left, right in pairs)


def far(found: Mapping[str, float], expected: Mapping[str, float]) -> float:
    """Largest relative difference of a metric."""
    assert found.keys() == expected.keys()
    return max(abs(found[name] - value) / max(abs(value), 1e-6) for name, value in expected.items())


def assert_same(distances: Sequence[float]) -> None:
    """Most seeds within the tolerance, all about the same."""
    assert sorted(distances)[len(distances) // 2] < TOLERANCE
    assert max(distances) < FLIPPED


@pytest.mark.parametrize(
    "changes",
    [
        {"model.name": "SimpleConvNet"},
        {"model.name": "Net1", "critic.labels": "permuted", "critic.optimizer": "adadelta"},
        {"explainer.method": "integrated_gradient"},
        {
            "critic.model": "SimpleConvNet",
            "explainer.method": "input_x_integrated_gradient",
            "critic.labels": "permuted",
        },
        {
            "explainer.method": "saliency",
            "explainer.target": "predicted",
            "joint.optimizer": "adam",
            "joint.learning_rate": 1e-4,
        },
        {"explainer.normalization": "sample", "finetune.optimizer": "sgd", "critic.chunk": 6},
        {"model.name": "SimpleConvNet", "explainer.method": "gradcam", "loss.lambda_e": 0.0, "loss.lambda_ft": 0.0},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_seeds_together_become_what_they_become_alone(changes: dict[str, Any]) -> None:
    config = SHORT.replace(changes)
    trainers = alone(config)
    trained, reports = together(config)
    states = trained.states()
    distances = []
    for index, trainer in enumerate(trainers):
        teacher, joint = states[index]["teacher"], trainer.state()["teacher"]
        found = [gap(trained.learners[index], trainer.learner)]
        found += [relative_error(teacher[name], expected) for name, expected in joint.items()]
        for (stage, epoch, expected), of_all in zip(trainer.history, reports, strict=True):
            report = of_all[index]
            assert (report.stage, report.epoch, report.total) == (stage, epoch, 3)
            found.append(far(report.metrics, expected))
        distances.append(max(found))
    assert_same(distances)
    assert gap(trained.learners[0], trained.learners[1]) > 0.1  # it would be no test if seeds were alike


def test_one_seed_can_be_together_with_itself() -> None:
    trained, _ = together(SHORT, [6])
    (trainer,) = alone(SHORT, [6])
    assert gap(trained.learners[0], trainer.learner) < TOLERANCE


def test_the_callers_randomness_is_left_alone() -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    together(BASE.replace({"stages": ["pretrain", "joint"]}))
    assert torch.equal(torch.get_rng_state(), before)


def stopped(config: Config, stage: Stage, step: int) -> Together:
    """Stopped before a step of the second epoch of a stage."""

    def stop(tick: Tick) -> None:
        if (tick.stage, tick.epoch, tick.step) == (stage, 1, step):
            raise Stop

    trained = Together(config, SEEDS, images(), pulse=stop)
    with pytest.raises(Stop):
        trained.run()
    return trained


@pytest.fixture(scope="module")
def whole() -> tuple[Together, list[Sequence[Report]]]:
    return together(BASE)


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_stopped_within_an_epoch_goes_on(stage: Stage, whole: tuple[Together, list[Sequence[Report]]]) -> None:
    expected, reports = whole
    half = stopped(BASE, stage, 2)
    states = half.states()
    assert [(state["stage"], state["epoch"], state["step"]) for state in states] == [(stage, 1, 2)] * 3
    rest: list[Sequence[Report]] = []
    resumed = Together.resume(states, images(), rest.append)
    resumed.run()
    for one, other in zip(resumed.learners, expected.learners, strict=True):
        assert gap(one, other) == 0  # the same program on the same machine
    assert [report.metrics for report in rest[0]] == [report.metrics for report in reports[-len(rest)]]
    half._pulse = None
    half.run()
    assert gap(half.learners[2], expected.learners[2]) == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_seed_goes_on_alone_and_seeds_that_were_alone_go_on_together(
    stage: Stage, whole: tuple[Together, list[Sequence[Report]]]
) -> None:
    states = stopped(BASE, stage, 1).states()
    trainer = Trainer.resume(states[1], images())
    assert gap(trainer.run(), whole[0].learners[1]) < TOLERANCE
    # Nothing of the other seeds comes along.
    tensors = [*states[1]["learner"].values(), *states[1]["optimizer"]["state"][0].values()]
    assert all(one.untyped_storage().nbytes() == one.nbytes for one in tensors)

    def stop(tick: Tick) -> None:
        if (tick.stage, tick.epoch, tick.step) == (stage, 1, 1):
            raise Stop

    own: list[dict[str, Any]] = []
    for seed in SEEDS:
        single = Trainer(BASE.replace({"seed": seed}), images(), pulse=stop)
        with pytest.raises(Stop):
            single.run()
        own.append(single.state())
    resumed = Together.resume(own, images())
    assert_same([gap(one, other) for one, other in zip(resumed.run(), whole[0].learners, strict=True)])


def test_a_report_makes_the_state_of_its_seed() -> None:
    states: list[dict[str, Any]] = []

    def keep(reports: Sequence[Report]) -> None:
        if reports[0].position == 3:
            states.append(reports[2].checkpoint())

    trained = Together(BASE, SEEDS, images(), keep)
    trained.run()
    (state,) = states
    assert (state["config"]["seed"], state["stage"], state["epoch"], state["step"]) == (6, "joint", 1, 0)
    assert gap(Trainer.resume(state, images()).run(), trained.learners[2]) < TOLERANCE


def test_states_of_different_steps_are_refused() -> None:
    first, second = stopped(BASE, "joint", 1).states(), stopped(BASE, "joint", 2).states()
    with pytest.raises(CheckpointError, match="one configuration and step"):
        Together.resume([*first[:2], second[2]], images())


def test_a_seed_that_diverges_is_named() -> None:
    config = BASE.replace({"stages": ["pretrain"], "pretrain.learning_rate": 1e-3})

    def spoil(reports: Sequence[Report]) -> None:
        with torch.no_grad():
            next(reports[1].learner.parameters()).fill_(math.nan)

    trained = Together(config, SEEDS, images(), spoil)
    with pytest.raises(DivergedError, match="diverged with seed 5: loss nan"):
        trained.run()


class Normalised(nn.Module):
    """No chain."""

    def __init__(self, channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10), nn.LogSoftmax(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(x)
        return found


class Frozen(models.MLP):
    """A chain with a layer that does not train."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.fc1.weight.requires_grad_(False)


class Twice(models.MLP):
    """A chain with weights that it does not use."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.other = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"model.name": "Net1", "explainer.method": "gradcam"}, "'gradcam' is more than an input gradient"),
        ({"explainer.method": "smoothgrad"}, "'smoothgrad' is more"),
        ({"model.name": "Net1", "explainer.method": "gradcam", "loss.lambda_e": 0.0, "loss.lambda_ft": 0.0}, None),
        ({"model.name": "tests.tiny:Tiny"}, "Tiny is no chain"),
        ({"critic.model": "tests.training.test_together:Normalised"}, "Normalised is no chain"),
        ({"critic.model": "tests.training.test_together:Normalised", "loss.lambda_e": 0.0}, None),
        ({"model.name": "tests.training.test_together:Frozen"}, "frozen"),
        ({"model.name": "tests.training.test_together:Twice"}, "outside of its chain"),
    ],
)
def test_what_cannot_train_together_says_why(changes: dict[str, Any], reason: str | None) -> None:
    config = BASE.replace(changes)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = obstacle(config, images())
    assert torch.equal(torch.get_rng_state(), before)
    assert found is None if reason is None else found is not None and reason in found
    if reason is not None:
        with pytest.raises(ConfigError, match="cannot be trained together"):
            Together(config, SEEDS, images())


@pytest.mark.parametrize("name", ["Net1", "SimpleConvNet", "MLP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stack_has_outputs_gradients_and_second_gradients_of_its_networks(name: str, channels: int) -> None:
    torch.manual_seed(0)
    count, batch = 3, 5
    networks = [models.build(name, (channels, 28, 28), 10) for _ in range(count)]
    stack = Stack(networks)
    x, y = torch.randn(batch * count, channels, 28, 28), torch.randint(0, 10, (batch * count,))
    chain = chain_of(stack)
    assert chain is not None
    outputs, gradients = explained(chain, x, y)
    u = torch.randn_like(gradients)
    whole = torch.autograd.grad((gradients * u).sum() + outputs[:, 0].sum(), stack.weights)
    for index, (network, own) in enumerate(zip(networks, stack.parts(whole), strict=True)):
        rows = slice(index, None, count)
        single = chain_of(network)
        assert single is not None
        log_p, gradient = explained(single, x[rows], y[rows])
        second = torch.autograd.grad((gradient * u[rows]).sum() + log_p[:, 0].sum(), list(network.parameters()))
        pairs = [(outputs[rows], log_p), (stack(x)[rows], log_p), (gradients[rows], gradient)]
        for found, expected in [*pairs, *zip(own, second, strict=True)]:
            assert relative_error(found, expected.detach()) < 1e-5


def test_networks_that_a_stack_lends_weights_change_with_it() -> None:
    networks = [models.build("MLP", (1, 8, 8), 4) for _ in range(2)]
    stack = Stack(networks)
    stack.lend(networks)
    before = [parameter.detach().clone() for parameter in networks[0].parameters()]
    with torch.no_grad():
        for each in stack.weights:
            each.add_(1)
    for old, new in zip(before, networks[0].parameters(), strict=True):
        assert torch.equal(old + 1, new)
    others = [models.build("MLP", (1, 8, 8), 4) for _ in range(2)]
    stack.fill(others)
    assert [gap(one, other) for one, other in zip(networks, others, strict=True)] == [0, 0]


def test_the_reference_network_is_no_chain() -> None:
    assert chain_of(Tiny()) is None


class Ordered(models.MLP):
    """Draws its layers in another order than it lists them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.fc1.reset_parameters()


class Scaled(models.MLP):
    """Draws more than its layers do."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        nn.init.normal_(self.fc3.weight)


@pytest.mark.parametrize(
    ("kind", "in_place"),
    [(models.MLP, True), (models.Net1, True), (models.SimpleConvNet, True), (Ordered, False), (Scaled, False)],
)
def test_fresh_weights_are_those_of_a_new_network(kind: type[nn.Module], in_place: bool) -> None:
    def build() -> nn.Module:
        return kind(channels=1, image_size=(16, 16), classes=4)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    fresh = Fresh(build, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    found, first = [], fresh.draw()
    for _ in range(2):
        found.append([one.detach().clone() for one in fresh.draw().parameters()])
    left = torch.get_rng_state()
    torch.manual_seed(1)
    build()
    for drawn in found:
        assert all(map(torch.equal, drawn, build().parameters()))
    assert torch.equal(torch.get_rng_state(), left)
    assert (fresh.draw() is first) == in_place
