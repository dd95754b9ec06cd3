"""Which configurations of a study were tried, and which are left."""

import itertools
import random
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from lsx.study.declared import grid
from lsx.study.declared.spec import StudySpec


class Tried:
    """The configurations that trials have, in whatever state they are; those of reference trials from the start.

    Settings are Config keys to values, laid over those that all trials share. Two configurations are the same when all
    settings but the device are, to 12 digits: logarithms there and back change the last ones of what is inherited.

    Args:
        spec: the study.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._space = spec.search_space
        self._base = spec.configure({}).flat()
        self._coarse = spec.sampler.type == "grid"
        self._size = grid.count(self._space, self._coarse)
        self._levels = {
            one.name: frozenset(map(_rounded, grid.levels(one.dimension, self._coarse)))
            for one in self._space
            if self._size is not None
        }
        self._known: set[Hashable] = set()
        self._points: set[Hashable] = set()
        self._ahead = self._untried()
        self._head: dict[str, Any] | None = None
        for own in spec.reference_trials.values():
            self.add(spec.configure(own).flat())

    @property
    def left(self) -> int | None:
        """Points of the space that were not tried; None where they are too many to be counted."""
        return None if self._size is None else self._size - len(self._points)

    def __contains__(self, settings: Mapping[str, Any]) -> bool:
        return self._identity(settings) in self._known

    def add(self, settings: Mapping[str, Any]) -> None:
        """Take note of a configuration."""
        self._known.add(self._identity(settings))
        point = self._point(settings)
        if point is not None:
            self._points.add(_frozen(point))

    def first_left(self) -> dict[str, Any]:
        """The first untried point in the order of the study file; there must be one, see :attr:`left`."""
        while self._head is None or _frozen(self._head) in self._points:
            self._head = next(self._ahead)  # what lies behind was tried and stays so
        return dict(self._head)

    def any_left(self, chance: random.Random) -> dict[str, Any]:
        """An untried point by chance; there must be one, see :attr:`left`."""
        return next(itertools.islice(self._untried(), chance.randrange(self.left or 1), None))

    def _untried(self) -> Iterator[dict[str, Any]]:
        return (one for one in grid.points(self._space, self._coarse) if _frozen(one) not in self._points)

    def _identity(self, settings: Mapping[str, Any]) -> Hashable:
        """Equal for equal configurations; works for those that Config refuses too."""
        return _frozen({**self._base, **settings, "device": None})

    def _point(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The point of a countable space that a configuration is; None: it is none."""
        if self._size is None:
            return None
        point: dict[str, Any] = {}
        for one in self._space:
            if one.exists(point):
                value = settings.get(one.key, self._base[one.key])
                if _rounded(value) not in self._levels[one.name]:
                    return None
                point[one.key] = value
        return point if self._identity(point) == self._identity(settings) else None


def _frozen(settings: Mapping[str, Any]) -> Hashable:
    return frozenset((key, _rounded(value)) for key, value in settings.items())


def _rounded(value: Any) -> Hashable:
    if isinstance(value, float):
        return float(f"{value:.12g}")
    return tuple(value) if isinstance(value, list) else value
