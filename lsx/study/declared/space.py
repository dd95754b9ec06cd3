"""The search space: which settings are searched, between which bounds, under which conditions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from lsx.errors import unknown
from lsx.study.declared.yamlines import Fault

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Value = bool | int | float | str | None
MOST_STEPS = 1_000_000_000  # beyond, neighbours are told apart by rounding errors


def _number(value: object) -> object:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{value!r} is not a number")
    return value


Number = Annotated[int | float | None, BeforeValidator(_number)]


class Dimension(BaseModel):
    """One searched setting.

    Attributes:
        type: kind of value.
        low, high: inclusive bounds of float and int.
        log: sample the logarithm uniformly; needs low > 0 and no step.
        step: grid of the values, starting at ``low``.
        choices: values of a categorical dimension.
        points: values that the grid sampler takes from a range without a step, both ends among them, evenly spaced
            (geometrically where ``log`` is set).
        when: conditions, all of which must hold: searched setting to the values (one or several) at which this
            dimension exists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["float", "int", "categorical"]
    low: Number = None
    high: Number = None
    log: bool = False
    step: Number = None
    choices: tuple[Value, ...] | None = None
    points: Annotated[int | None, Field(ge=2, le=10_000)] = None
    when: Mapping[str, tuple[Value, ...]] = {}

    @field_validator("when", mode="before")
    @classmethod
    def _several(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        return {key: tuple(value) if isinstance(value, list | tuple) else (value,) for key, value in when.items()}

    @model_validator(mode="after")
    def _sound(self) -> Self:
        reason = self._categorical_fault() if self.type == "categorical" else self._numeric_fault()
        if reason:
            raise ValueError(reason)
        return self

    def _categorical_fault(self) -> str | None:
        if not self.choices:
            return "a categorical dimension needs choices, a list of values"
        if len(set(self.choices)) < len(self.choices):
            return f"choices {list(self.choices)} name a value twice"
        given = [name for name in ("low", "high", "step", "points") if getattr(self, name) is not None]
        given += ["log"] * self.log
        return f"{given[0]} does not belong to a categorical dimension" if given else None

    def _numeric_fault(self) -> str | None:
        if self.choices is not None:
            return f"choices belong to a categorical dimension, not to {self.type}"
        if self.low is None or self.high is None:
            return f"a dimension of type {self.type} needs low and high"
        numbers = {"low": self.low, "high": self.high, "step": self.step}
        broken = [name for name, value in numbers.items() if isinstance(value, float)]
        if self.type == "int" and broken:
            return f"{broken[0]} {numbers[broken[0]]} must be a whole number in a dimension of type int"
        if self.low >= self.high:
            return f"low {self.low} must be below high {self.high}"
        return self._scale_fault(self.low, self.high)

    def _scale_fault(self, low: float, high: float) -> str | None:
        if self.log and low <= 0:
            return f"low {low} must be above 0 on a log scale"
        if self.step is None:
            return None
        if self.log:
            return f"step {self.step} cannot be had on a log scale; leave out one of both"
        if self.points is not None:
            return f"points {self.points} cannot be had beside step {self.step}; leave out one of both"
        if self.step <= 0:
            return f"step {self.step} must be above 0"
        if (high - low) / self.step > MOST_STEPS:
            return f"step {self.step} is too small: more than {MOST_STEPS:,} steps from low {low} to high {high}"
        if not _whole((high - low) / self.step):
            return f"step {self.step} does not lead from low {low} to high {high}"
        return None

    def contains(self, value: object) -> bool:
        """Whether the dimension can take ``value``."""
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or self.low is None or self.high is None:
            return False
        step = self.step or (1 if self.type == "int" else None)
        return self.low <= value <= self.high and (step is None or _whole((value - self.low) / step))

    def cast(self, value: Any) -> Value:
        """A contained value in the dimension's own type, on its step without rounding errors."""
        if self.choices is not None:
            return self.choices[self.choices.index(value)]
        if self.type == "int":
            return int(value)
        if self.step is None or self.low is None:
            return float(value)
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return float(low + round((value - self.low) / self.step) * step)

    def samples(self) -> dict[str, Value]:
        """Values that stand for all: the choices, or both bounds and something between; each with its name."""
        if self.choices is not None:
            return {f"choice {value!r}": value for value in self.choices}
        if self.low is None or self.high is None:
            return {}
        between: Value = None
        if self.type == "float":
            between = self.low + (self.step or (self.high - self.low) * 0.618)
        values = {"low": self.low, "high": self.high, "value": between}
        return {f"{name} {value}": value for name, value in values.items() if value is not None}

    def ask(self, trial: "BaseTrial", name: str) -> Value:
        """Let a trial choose a value, under ``name``."""
        if self.choices is not None:
            chosen: Value = trial.suggest_categorical(name, self.choices)
            return chosen
        low: Any = self.low
        high: Any = self.high
        step: Any = self.step
        if self.type == "int":
            return trial.suggest_int(name, low, high, step=step or 1, log=self.log)
        return self.cast(trial.suggest_float(name, low, high, step=step, log=self.log))


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-9 * max(1.0, abs(value))


@dataclass(frozen=True)
class Parameter:
    """A dimension and its names.

    Attributes:
        key: dotted key of Config that it sets.
        name: name in Optuna: the key, or ``key@condition`` where several dimensions share a key.
        dimension: its values.
    """

    key: str
    name: str
    dimension: Dimension

    def exists(self, values: Mapping[str, Any]) -> bool:
        """Whether the conditions hold when the searched settings (Config keys) have these values."""
        return all(key in values and values[key] in allowed for key, allowed in self.dimension.when.items())


class Space:
    """All dimensions of a study, in the order in which their conditions can be decided.

    Args:
        dimensions: Config key to its dimensions; several only with conditions that exclude each other.
    """

    def __init__(self, dimensions: Mapping[str, tuple[Dimension, ...]]) -> None:
        for key, variants in dimensions.items():
            _check_conditions(key, variants, dimensions)
            _check_exclusive(key, variants)
        self.parameters = tuple(
            Parameter(key, _name(key, dimension, alone=len(dimensions[key]) == 1), dimension)
            for key in _ordered(dimensions)
            for dimension in dimensions[key]
        )

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def suggest(self, trial: "BaseTrial", fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask a trial for every active dimension, and for no other.

        Args:
            trial: an Optuna trial, or anything with its ``suggest_*`` methods.
            fixed: Config keys that are given (a reference trial's overrides) and not asked for.

        Returns:
            Config key to value: the fixed ones and the suggested ones.
        """
        given = dict(fixed or {})
        values = dict(given)
        for parameter in self:
            if parameter.key not in given and parameter.exists(values):
                values[parameter.key] = parameter.dimension.ask(trial, parameter.name)
        return values

    def active(self, values: Mapping[str, Any]) -> tuple[Parameter, ...]:
        """The parameters that exist when the searched settings (Config keys) have these values."""
        return tuple(parameter for parameter in self if parameter.exists(values))

    def split(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Flat settings to (params, overrides).

        Params, by Optuna name, lie inside of the space: their dimension is active and contains them. Overrides, by
        Config key, are all others. ``suggest`` with these params enqueued and these overrides fixed gives back
        the settings.
        """
        inside = [
            parameter
            for parameter in self.active(settings)
            if parameter.key in settings and parameter.dimension.contains(settings[parameter.key])
        ]
        params = {parameter.name: parameter.dimension.cast(settings[parameter.key]) for parameter in inside}
        keys = {parameter.key for parameter in inside}
        return params, {key: value for key, value in settings.items() if key not in keys}


def _name(key: str, dimension: Dimension, *, alone: bool) -> str:
    if alone:
        return key
    return f"{key}@{'&'.join(','.join(map(str, values)) for values in dimension.when.values())}"


def _check_conditions(
    key: str, variants: tuple[Dimension, ...], dimensions: Mapping[str, tuple[Dimension, ...]]
) -> None:
    for index, dimension in enumerate(variants):
        for other, values in dimension.when.items():
            path, label = ("space", key, index, "when", other), f"space.{key}"
            parents = dimensions.get(other, ())
            if not parents:
                raise Fault(path, f"when: {unknown('searched setting', other, dimensions)}", label)
            if any(parent.type == "float" for parent in parents):
                raise Fault(path, f"when: {other} is a float; conditions need a categorical or int setting", label)
            never = [value for value in values if not any(parent.contains(value) for parent in parents)]
            if never:
                raise Fault(path, f"when: {other} is never {never[0]!r}; {_valid(parents)}", label)


def _valid(parents: tuple[Dimension, ...]) -> str:
    texts = (
        ", ".join(map(str, parent.choices)) if parent.choices is not None else f"{parent.low} to {parent.high}"
        for parent in parents
    )
    return f"valid: {', '.join(texts)}"


def _check_exclusive(key: str, variants: tuple[Dimension, ...]) -> None:
    if not variants:
        raise Fault(("space", key), "has no dimension")
    for index, one in enumerate(variants):
        for other in variants[:index]:
            apart = any(not set(values) & set(other.when.get(name, values)) for name, values in one.when.items())
            if not apart:
                raise Fault(
                    ("space", key, index),
                    "two dimensions of one setting can hold at once; give them `when` values of one other setting "
                    "that exclude each other",
                    f"space.{key}",
                )


def _ordered(dimensions: Mapping[str, tuple[Dimension, ...]]) -> list[str]:
    """Keys, each after the keys of its conditions."""
    parents = {key: {other for one in variants for other in one.when} for key, variants in dimensions.items()}
    order: list[str] = []
    while len(order) < len(parents):
        ready = [key for key in parents if key not in order and parents[key] <= set(order)]
        if not ready:
            circle = [key for key in parents if key not in order]
            raise Fault(("space", circle[0]), f"when: conditions run in a circle: {', '.join(circle)}")
        order += ready
    return order
