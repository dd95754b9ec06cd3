"""Metrics by name: what each means, and the function that computes it.

A user adds one with ``@register("name", direction=...)``, or names it ``package.module:function`` in
``evaluation.metrics``, which also works in a study's worker processes; the decorator says its direction in both cases.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypeVar

from lsx.errors import ConfigError, unknown
from lsx.metrics.score import Score
from lsx.registry import Registry

if TYPE_CHECKING:
    from lsx.metrics.context import Context

Direction = Literal["maximize", "minimize"]
MetricFunction: TypeAlias = "Callable[[Context], float | Score]"
F = TypeVar("F", bound="Callable[[Context], float | Score]")

INFINITY = float("inf")
ALL, STANDARD = "all", "standard"
_ATTRIBUTE = "metric"


class NotApplicable(Exception):
    """A metric does not exist here, as localization without masks; the message is the reason.

    A metric raises it, or asks the context for something that does. It is then left out of a group, and NaN with this
    reason where it was asked for by name.
    """


class Metric(NamedTuple):
    """One metric of :func:`lsx.metrics.evaluate`.

    Attributes:
        direction: which way is better. For localization without ``foreground`` in the name it supposes that the mask
            marks a confounder (the decoy patch).
        low, high: range; either may be infinite.
        meaning: one line.
        groups: names under which it is asked for together with others; ``all`` is not among them.
        function: computes it.
    """

    direction: Direction
    low: float
    high: float
    meaning: str
    groups: tuple[str, ...]
    function: MetricFunction

    @property
    def arrow(self) -> str:
        """``↑`` or ``↓``."""
        return "↑" if self.direction == "maximize" else "↓"


class Metrics(Mapping[str, Metric]):
    """All registered metrics; ``package.module:function`` is found too, though not listed.

    Printed, it is a table: name, direction, range, meaning.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def find(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            ConfigError: no such name; it cannot be imported; or what is imported does not say its direction.
        """
        if name in self._metrics:
            return self._metrics[name]
        if ":" not in name:
            raise ConfigError(unknown("metric", name, self))
        metric = getattr(Registry[object]("metric").get(name), _ATTRIBUTE, None)
        if not isinstance(metric, Metric):
            raise ConfigError(
                f"metric {name!r} does not say which way is better; "
                'decorate it with @lsx.metrics.register("name", direction="maximize" or "minimize")'
            )
        return metric

    def group(self, name: str) -> list[str]:
        """Names of a group's metrics; none where there is no such group."""
        return [one for one, metric in self.items() if name == ALL or name in metric.groups]

    @property
    def groups(self) -> list[str]:
        """Names of all groups, ``all`` among them."""
        return sorted({ALL, *(group for metric in self.values() for group in metric.groups)})

    def enter(self, name: str, metric: Metric) -> None:
        """Add a metric, or replace it by a new version of its function.

        Raises:
            ConfigError: the name is taken by another function, is that of a group, or has a colon.
        """
        if name in (ALL, STANDARD) or ":" in name:
            problem = "has a colon" if ":" in name else "is the name of a group"
            raise ConfigError(f"metric name {name!r} {problem}; choose another name")
        if name in self._metrics and not _same(self._metrics[name].function, metric.function):
            raise ConfigError(f"metric {name!r} is registered already; choose another name")
        self._metrics[name] = metric

    def __getitem__(self, name: str) -> Metric:
        try:
            return self.find(name)
        except ConfigError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(
            f"{name:{width}}  {metric.arrow}  {f'{metric.low:g} to {metric.high:g}':12}  {metric.meaning}"
            for name, metric in self.items()
        )


def _same(old: object, new: object) -> bool:
    """Whether a function was only defined again: in a notebook, or by importing the script that is running."""
    names = {getattr(one, "__qualname__", None) for one in (old, new)}
    modules = {getattr(one, "__module__", None) for one in (old, new)} - {"__main__"}
    return None not in names and len(names) == 1 and len(modules) <= 1


METRICS = Metrics()
"""Every metric, by name."""


def register(
    name: str,
    *,
    direction: Direction,
    low: float = -INFINITY,
    high: float = INFINITY,
    meaning: str = "",
    groups: Iterable[str] = (),
) -> Callable[[F], F]:
    """Decorator that enters a function of a :class:`lsx.metrics.Context` as a metric.

    The function returns a number, or a :class:`lsx.metrics.Score`; it may raise :class:`NotApplicable`. Its random
    numbers, from torch or NumPy, are seeded with the evaluation's seed.

    Args:
        name: under which it is asked for and listed.
        direction: which way is better, ``maximize`` or ``minimize``.
        low, high: range.
        meaning: one line for tables.
        groups: names that ask for it together with other metrics; ``all`` always does.

    Raises:
        ConfigError: an unknown direction, an empty range, or a name that is taken.
    """
    if direction not in ("maximize", "minimize"):
        raise ConfigError(unknown("direction", direction, ("maximize", "minimize")))
    if not low < high:
        raise ConfigError(f"metric {name!r}: low {low} must be below high {high}")

    def enter(function: F) -> F:
        metric = Metric(direction, low, high, meaning, tuple(groups), function)
        METRICS.enter(name, metric)
        setattr(function, _ATTRIBUTE, metric)
        return function

    return enter


def select(names: Iterable[str]) -> dict[str, bool]:
    """The metrics that ``names`` ask for, in order: True by their own name, False as members of a group.

    A metric comes before a group of the same name.

    Raises:
        ConfigError: an unknown name, or a ``package.module:function`` that cannot be used.
    """
    chosen: dict[str, bool] = {}
    for name in names:
        if name not in METRICS and (members := METRICS.group(name)):
            for member in members:
                chosen.setdefault(member, False)
        elif ":" in name or name in METRICS:
            METRICS.find(name)
            chosen[name] = True
        else:
            raise ConfigError(unknown("metric", name, {*METRICS, *METRICS.groups}))
    return chosen
