"""Randomisation: SciPy's rank correlation, scikit-learn's cosine, which layers change, degenerate maps."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import cosine_similarity as sklearn_cosine
from torch import Tensor, nn

from lsx.metrics import cosine_similarity, rank_correlation
from lsx.metrics.randomisation import cascade, same_architecture
from tests.tiny import Tiny

FUNCTIONS = [rank_correlation, cosine_similarity]


def pairs() -> tuple[Tensor, Tensor]:
    """Clipped maps: many equal zeros, as explanations have."""
    generator = torch.Generator().manual_seed(0)
    first, noise = (torch.randn(6, 3, 7, 5, generator=generator) for _ in range(2))
    return first.clamp(min=0), (first + noise).clamp(min=0) * 1e-3


def test_rank_correlation_against_scipy() -> None:
    first, second = pairs()
    first[:, :, :4] = 0  # ties after the sum over channels too
    rows = (maps.sum(dim=1).flatten(1).double().numpy() for maps in (first, second))
    expected = [spearmanr(one, other).statistic for one, other in zip(*rows, strict=True)]
    assert rank_correlation(first.double(), second.double()).tolist() == pytest.approx(expected, rel=1e-9)
    assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-5)


def test_cosine_against_sklearn() -> None:
    first, second = pairs()
    expected = sklearn_cosine(first.flatten(1).numpy(), second.flatten(1).numpy()).diagonal()
    assert cosine_similarity(first, second).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_ranks_forget_monotone_changes_and_both_know_their_ends() -> None:
    first, _ = pairs()
    grey = first.sum(dim=1, keepdim=True) + 0.1
    assert rank_correlation(grey, grey.log()).tolist() == pytest.approx([1] * 6, abs=1e-5)
    assert rank_correlation(grey, -grey).tolist() == pytest.approx([-1] * 6, abs=1e-5)
    assert cosine_similarity(grey, 7 * grey).tolist() == pytest.approx([1] * 6, abs=1e-5)
    apart = torch.zeros(2, 1, 2, 2)
    apart[0, 0, 0, 0] = apart[1, 0, 1, 1] = 1
    assert cosine_similarity(apart[:1], apart[1:]).tolist() == [0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_constant_maps_are_nan_on_either_side(function: object) -> None:
    first, second = pairs()
    first[0], second[1], second[2, 0, 0, 0] = 0, 0.3, math.nan
    for pair in ((first, second), (second, first)):
        assert function(*pair).isnan().tolist() == [True, True, True, False, False, False]  # type: ignore[operator]


def test_cascade_replaces_from_the_last_layer_down() -> None:
    torch.manual_seed(0)
    learner, fresh = Tiny(), Tiny()
    kept = {name: weight.clone() for name, weight in learner.state_dict().items()}
    changed = []
    for network in cascade(learner, fresh):
        state, new = network.state_dict(), fresh.state_dict()
        changed.append({name.split(".")[0] for name in state if torch.equal(state[name], new[name])})
        assert all(torch.equal(state[name], kept[name]) for name in state if name.split(".")[0] not in changed[-1])
    assert changed == [{"fc"}, {"fc", "conv2"}, {"fc", "conv2", "conv1"}]
    assert all(torch.equal(weight, kept[name]) for name, weight in learner.state_dict().items())


def test_cascade_reaches_statistics_and_nested_layers() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2, affine=False), nn.ReLU()))

    torch.manual_seed(0)
    learner, fresh = build(), build()
    learner(torch.rand(4, 1, 5, 5))  # moves the running statistics
    *_, last = cascade(learner, fresh)
    assert len(list(cascade(learner, fresh))) == 2
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in last.state_dict().items())
    assert not last.training and learner.training


def test_architectures_are_told_apart() -> None:
    assert same_architecture(Tiny(), Tiny())
    assert not same_architecture(Tiny(), Tiny(classes=9))
    assert not same_architecture(Tiny(), nn.Linear(2, 2))
