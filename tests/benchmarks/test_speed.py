"""The speed benchmark compares like with like, runs every part, and says what it measured. No times are judged."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import contenders
import speed
import yardstick
from contenders import Job, Measured, Sizes, layer_flops, needed, prepare

from lsx import explainers, models
from lsx.config import ExplainerConfig


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "SMALL", Sizes(images=40, batch_size=20, batches=2, critic_size=8))
    monkeypatch.setattr(contenders, "TRIAL_IMAGES", 20)
    monkeypatch.setattr(contenders, "METRIC_IMAGES", 40)


@pytest.mark.parametrize("name", ["Net1", "SimpleConvNet"])
def test_the_yardstick_computes_what_lsx_does(name: str) -> None:
    torch.manual_seed(0)
    theirs, ours = yardstick.NETWORKS[name](), models.build(name, (1, 28, 28), 10)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one.data.copy_(other.data)
    x, y = torch.randn(6, 1, 28, 28), torch.arange(6)
    torch.testing.assert_close(ours(x), theirs(x))
    expected = yardstick.explanation(theirs, x, y)
    found = explainers.build(ExplainerConfig())(ours, x, y, create_graph=True)
    torch.testing.assert_close(found, expected)
    weights = torch.rand_like(x)
    gradients = [
        torch.autograd.grad((e * weights).sum(), list(network.parameters()), allow_unused=True)
        for e, network in ((expected, theirs), (found, ours))
    ]
    for one, other in zip(*gradients, strict=True):
        nothing = torch.zeros(())
        torch.testing.assert_close(
            nothing if other is None else other, nothing if one is None else one, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("part", ["joint", "pretrain", "finetune", "trial"])
def test_every_part_runs(part: str, tiny: None) -> None:
    for contender in ("yardstick", "float32", "bfloat16"):
        torch.manual_seed(0)
        act, flops = prepare(Job(contender, part, "SimpleConvNet", "cpu", 1))
        act()
        assert (flops == 0) == (part == "trial")


def test_what_a_step_needs(tiny: None) -> None:
    first, *rest = layer_flops("Net1")
    assert (first, rest[0]) == (2 * 9 * 32 * 26 * 26, 2 * 9 * 32 * 64 * 24 * 24)
    assert needed(Job("float32", "pretrain", "Net1", "cpu", 1)) == 40 * (2 * first + 3 * sum(rest))


def test_every_metric_is_timed(tiny: None) -> None:
    act = Measured(Job("float32", "metrics", "SimpleConvNet", "cpu", 1))
    act()
    act()
    assert len(act.each) > 20 and all(len(times) == 2 and min(times) >= 0 for times in act.each.values())


def test_the_table_has_contenders_and_metrics() -> None:
    seconds = {"median": 2.0, "low": 1.0, "high": 3.0}
    one: dict[str, Any] = {"seconds": seconds, "ratio": seconds, "gflops": 0.0, "peak_mib": 7.0}
    each = {"slow": seconds, "fast": {"median": 0.001, "low": 0.0, "high": 0.002}}
    result = {"part": "metrics", "network": "Net1", "n": "1 x 3", "contenders": {"float32": one}, "each": each}
    machine = {"device": "cpu", "threads": 2, "torch": "2", "date": "today", "matrix_product_gflops": {"float32": 1.0}}
    said = speed.table({"machine": machine, "results": [result]})
    assert "| metrics | Net1 | float32 | 2 s (1–3) | 2.00 (1.00–3.00) |  | 7 | 1 x 3 |" in said
    assert "| `slow` | 2.00 (1.00–3.00) |" in said and "| 1 others together | 0.00 |" in said
