"""The points of a search space that has finitely many, in the order of the study file."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lsx.study.declared.space import Dimension, Space, Value
from lsx.study.declared.yamlines import Fault

MOST_POINTS = 100_000
"""Spaces with more points count as infinite: nobody runs them all."""


def size(dimension: Dimension, coarse: bool) -> int | None:
    """How many values a dimension takes; None: a range without a grid.

    Args:
        dimension: what is counted.
        coarse: as the grid sampler sees it, which takes ``points`` of a range; the other samplers take all of it.
    """
    if dimension.choices is not None:
        return len(dimension.choices)
    if coarse and dimension.points is not None:
        return len(_spaced(dimension, dimension.points))
    step = _step(dimension)
    if step is None or dimension.low is None or dimension.high is None:
        return None
    return round((dimension.high - dimension.low) / step) + 1


def levels(dimension: Dimension, coarse: bool) -> Sequence[Value]:
    """The values that :func:`size` counts, ascending or in the order of the choices."""
    if dimension.choices is not None:
        return dimension.choices
    if coarse and dimension.points is not None:
        return _spaced(dimension, dimension.points)
    step, count = _step(dimension), size(dimension, coarse)
    if step is None or count is None or dimension.low is None:
        return ()
    return [dimension.cast(dimension.low + index * step) for index in range(count)]


def _step(dimension: Dimension) -> float | None:
    return dimension.step or (1 if dimension.type == "int" else None)


def _spaced(dimension: Dimension, points: int) -> list[Value]:
    """Both ends and values between them, evenly spaced or, on a log scale, geometrically; whole numbers once each."""
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    values = [low]
    for index in range(1, points - 1):
        share = index / (points - 1)
        value = low * (high / low) ** share if dimension.log else low + (high - low) * share
        values.append(min(high, max(low, float(f"{value:.12g}"))))  # 0.3, not 0.30000000000000004
    values.append(high)
    if dimension.type == "int":
        return list(dict.fromkeys(round(value) for value in values))
    return list(dict.fromkeys(values))


def points(space: Space, coarse: bool) -> Iterator[dict[str, Value]]:
    """Every point of a space that :func:`count` can count, as Config key to value; the first key varies slowest."""
    parameters = space.parameters
    values_of = {parameter.name: levels(parameter.dimension, coarse) for parameter in parameters}

    def below(index: int, values: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if index == len(parameters):
            yield values
        elif not parameters[index].exists(values):
            yield from below(index + 1, values)
        else:
            for value in values_of[parameters[index].name]:
                yield from below(index + 1, {**values, parameters[index].key: value})

    return below(0, {})


def count(space: Space, coarse: bool) -> int | None:
    """How many points a space has; None: infinitely many, or more than :data:`MOST_POINTS`."""
    parameters = space.parameters
    sizes = [size(parameter.dimension, coarse) or MOST_POINTS + 1 for parameter in parameters]
    if any(one > MOST_POINTS for one in sizes):
        return None
    deciding = {key for parameter in parameters for key in parameter.dimension.when}

    def below(index: int, values: Mapping[str, Any]) -> int:
        if index == len(parameters):
            return 1
        parameter = parameters[index]
        if not parameter.exists(values):
            return below(index + 1, values)
        if parameter.key not in deciding:
            return sizes[index] * below(index + 1, values)
        total = 0
        for value in levels(parameter.dimension, coarse):
            total += below(index + 1, {**values, parameter.key: value})
            if total > MOST_POINTS:
                break
        return total

    total = below(0, {})
    return total if total <= MOST_POINTS else None


def check_grid(space: Space) -> None:
    """Refuse what the grid sampler cannot enumerate.

    Raises:
        Fault: a range without values to take, or too many points.
    """
    seen: dict[str, int] = {}
    for parameter in space:
        index = seen[parameter.key] = seen.get(parameter.key, -1) + 1
        place, label, values = (
            ("space", parameter.key, index),
            f"space.{parameter.key}",
            size(parameter.dimension, True),
        )
        if values is None:
            raise Fault(place, "a grid cannot enumerate a float; give it step or points", label)
        if values > MOST_POINTS:
            raise Fault(place, f"a grid cannot enumerate {values:,} values; give it points or a larger step", label)
    if count(space, coarse=True) is None:
        raise Fault(
            ("sampler", "type"), f"the grid has more than {MOST_POINTS:,} points; take fewer, or another sampler"
        )
