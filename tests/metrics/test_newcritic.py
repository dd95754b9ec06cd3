"""A new critic: what it can and cannot learn, what it is scored on, degenerate explanations."""

import math

import pytest
import torch
from torch import Tensor, nn

from lsx.metrics import learn

CLASSES = 3


def critic(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES), nn.LogSoftmax(dim=1))


def lesson(count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    maps = 0.2 * torch.rand(count, 1, 4, 4, generator=generator)
    maps[torch.arange(count), 0, labels] += 1
    return maps, labels


def test_learns_what_is_there_and_not_what_is_not() -> None:
    maps, labels = lesson()
    found = learn(critic(), maps, labels, epochs=60)
    assert found.accuracy.value == 1
    assert 0 < found.loss_to_chance.value < 0.8
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    shuffled = learn(critic(), maps, labels[order], epochs=60)
    assert shuffled.accuracy.value < 0.6
    assert shuffled.loss_to_chance.value > 0.9


def test_scores_are_those_of_the_last_fifth() -> None:
    maps, labels = lesson()
    labels[160:] = (labels[160:] + 1) % CLASSES
    assert learn(critic(), maps, labels, epochs=60).accuracy.value == 0
    network = critic()
    found = learn(network, maps, labels, epochs=2)
    with torch.no_grad():
        outputs = network(maps[160:])
    truth = outputs[torch.arange(40), labels[160:]]
    assert found.loss_to_chance.value == pytest.approx(float(-truth.mean()) / math.log(CLASSES), rel=1e-5)
    assert found.accuracy.value == pytest.approx(float((outputs.argmax(1) == labels[160:]).float().mean()))


def test_an_untrained_critic_that_says_nothing_is_at_chance() -> None:
    network = critic()
    for weight in network.parameters():
        nn.init.zeros_(weight)
    assert learn(network, *lesson(), epochs=0).loss_to_chance.value == pytest.approx(1)


def test_same_seed_same_numbers() -> None:
    maps, labels = lesson()
    first = learn(critic(), maps, labels, epochs=3, seed=4)
    with torch.no_grad():
        assert learn(critic(), maps, labels, epochs=3, seed=4) == first
    assert learn(critic(), maps, labels, epochs=3, seed=5) != first


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda maps, labels: (0 * maps, labels), "all 200 maps are constant"),
        (lambda maps, labels: (maps + 0 * maps.log() / 0, labels), "not finite"),
        (lambda maps, labels: (maps, 0 * labels), "the first 160 of 200 samples hold fewer than two classes"),
        (lambda maps, labels: (maps[:1], labels[:1]), "the first 0 of 1 samples hold fewer than two classes"),
    ],
)
def test_undefined_with_a_reason(change: object, reason: str) -> None:
    found = learn(critic(), *change(*lesson()), epochs=1)  # type: ignore[operator]
    for score in found:
        assert math.isnan(score.value)
        assert reason in score.reason
