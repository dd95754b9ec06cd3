"""Figures over the seeds of one trial: means, spreads, intervals, paired differences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A metric over n seeds.

    Attributes:
        mean: of the seeds; NaN if one is NaN.
        deviation: sample standard deviation (n − 1); NaN with one seed.
        interval: half width of the 95 % confidence interval of the mean, Student's t with n − 1 degrees of freedom; NaN
            with one seed. It covers chance in training, on one split of the data.
        n: seeds.
    """

    mean: float
    deviation: float
    interval: float
    n: int


def mean(values: Sequence[float]) -> float:
    """The mean; NaN if a value is NaN or infinite, or if there is none."""
    return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.nan


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and 95 % interval."""
    count = len(values)
    middle = mean(values)
    if count < 2 or math.isnan(middle):
        return Spread(middle, math.nan, math.nan, count)
    deviation = statistics.stdev(values)
    return Spread(middle, deviation, _t(count - 1) * deviation / math.sqrt(count), count)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The difference ours − theirs, seed by seed; only seeds that both have count.

    Example:
        >>> paired([1.0, 3.0], [0.0, 2.0]).mean
        1.0
    """
    return spread([mine - other for mine, other in zip(ours, theirs, strict=False)])


def flat(seeds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """``<metric>_std`` and ``<metric>_ci95`` of every metric; nothing for one seed or where a seed has no value."""
    found = {name: spread(values) for name, values in seeds.items()}
    known = {name: one for name, one in found.items() if math.isfinite(one.interval)}
    return {f"{name}_std": one.deviation for name, one in known.items()} | {
        f"{name}_ci95": one.interval for name, one in known.items()
    }


def mean_curves(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of ``stage``, ``position`` and ``metrics`` averaged over seeds, where all of them have the row."""
    by_position: list[dict[int, Mapping[str, Any]]] = [{row["position"]: row for row in rows} for rows in curves]
    shared = sorted(set.intersection(*(set(rows) for rows in by_position))) if by_position else []
    averaged = []
    for position in shared:
        rows = [seed[position] for seed in by_position]
        names = [name for name in rows[0]["metrics"] if all(name in row["metrics"] for row in rows)]
        values = {name: mean([row["metrics"][name] for row in rows]) for name in names}
        averaged.append({"stage": rows[0]["stage"], "position": position, "metrics": values})
    return averaged


def _t(freedom: int) -> float:
    """Student's t quantile for a two-sided interval."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
