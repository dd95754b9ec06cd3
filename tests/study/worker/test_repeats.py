"""Figures over seeds, against hand-computed ones and SciPy."""

import math
import random
import statistics

import numpy as np
import pytest
from scipy import stats

from lsx.study.worker import repeats


def test_a_spread_by_hand() -> None:
    found = repeats.spread([1.0, 2.0, 3.0, 6.0])
    # Deviations −2, −1, 0, 3: variance 14 / 3. t with 3 degrees of freedom: 3.182446.
    assert (found.mean, found.n) == (3.0, 4)
    assert found.deviation == pytest.approx(math.sqrt(14 / 3))
    assert found.interval == pytest.approx(3.182446 * math.sqrt(14 / 3) / 2, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_intervals_are_scipys(count: int) -> None:
    draw = random.Random(count)
    values = [draw.gauss(0.9, 0.02) for _ in range(count)]
    found = repeats.spread(values)
    low, high = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    assert (found.mean - found.interval, found.mean + found.interval) == pytest.approx((low, high))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        found = repeats.spread([draw.gauss(1.0, 3.0) for _ in range(3)])
        hits += abs(found.mean - 1.0) <= found.interval
    assert hits / 2000 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 2000))


def test_what_has_no_spread() -> None:
    one = repeats.spread([0.5])
    assert (one.mean, one.n) == (0.5, 1) and math.isnan(one.interval) and math.isnan(one.deviation)
    for values in ([], [0.5, math.nan], [0.5, math.inf]):
        found = repeats.spread(values)
        assert math.isnan(found.mean) and math.isnan(found.interval) and found.n == len(values)
    assert repeats.spread([0.5, 0.5]).interval == 0


def test_differences_are_paired() -> None:
    ours, theirs = [0.91, 0.95, 0.93], [0.90, 0.93, 0.92]
    found = repeats.paired(ours, theirs)
    assert found.mean == pytest.approx(0.04 / 3)
    test = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.mean - found.interval, found.mean + found.interval) == pytest.approx((test.low, test.high))
    assert found.interval < repeats.spread(ours).interval  # what seeds share is no chance
    assert repeats.paired([*ours, 0.5], theirs) == found  # a fourth seed of one alone


def test_flat_names() -> None:
    seeds = {"accuracy": [0.5, 0.75], "iies": [1.0, math.nan], "ridge": [0.5]}
    found = repeats.flat(seeds)
    assert set(found) == {"accuracy_std", "accuracy_ci95"}
    assert found["accuracy_std"] == pytest.approx(statistics.stdev([0.5, 0.75]))
    assert found["accuracy_ci95"] == pytest.approx(12.70620474 * 0.125)


def test_mean_curves_have_the_rows_that_all_seeds_have() -> None:
    one = [row(1, loss=1.0, accuracy=0.5), row(2, loss=0.5), row(4, loss=0.25)]
    two = [row(1, loss=3.0), row(4, loss=0.75, accuracy=0.9), row(5, loss=0.0)]
    assert repeats.mean_curves([one, two]) == [row(1, loss=2.0), row(4, loss=0.5)]
    assert repeats.mean_curves([]) == []
    assert math.isnan(repeats.mean_curves([one, [row(1, loss=math.nan)]])[0]["metrics"]["loss"])


def row(position: int, **metrics: float) -> dict[str, object]:
    return {"stage": "joint", "position": position, "metrics": metrics}
