"""The search space: which settings are searched, between which bounds, under which conditions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

Value = bool | int | float | str | None
Number = int | float


class Dimension(BaseModel):
    """One searched setting.

    Attributes:
        type: kind of value.
        low, high: inclusive bounds of float and int.
        log: sample the logarithm uniformly; needs low > 0 and no step.
        step: grid of the values, starting at ``low``.
        choices: values of a categorical dimension.
        when: conditions, all of which must hold: searched setting to the values (one or several) at which this
            dimension exists.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["float", "int", "categorical"]
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: tuple[Value, ...] | None = None
    when: Mapping[str, tuple[Value, ...]] = {}

    @field_validator("when", mode="before")
    @classmethod
    def _several(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        return {key: tuple(value) if isinstance(value, list | tuple) else (value,) for key, value in when.items()}

    def contains(self, value: object) -> bool:
        """Whether the dimension can take ``value``."""
        raise NotImplementedError

    def distribution(self) -> "BaseDistribution":
        """The same as Optuna knows it."""
        raise NotImplementedError


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


class Space:
    """All dimensions of a study, in the order in which their conditions can be decided.

    Args:
        dimensions: Config key to its dimensions; several only with conditions that exclude each other.
    """

    def __init__(self, dimensions: Mapping[str, tuple[Dimension, ...]]) -> None:
        self.parameters: tuple[Parameter, ...] = ()
        raise NotImplementedError

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
        raise NotImplementedError

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Optuna name to distribution, of all dimensions."""
        raise NotImplementedError

    def active(self, values: Mapping[str, Any]) -> tuple[Parameter, ...]:
        """The parameters that exist when the searched settings (Config keys) have these values."""
        raise NotImplementedError

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna params (by Optuna name) to Config keys."""
        raise NotImplementedError

    def split(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Flat settings to (params, overrides).

        Params, by Optuna name, lie inside of the space: their dimension is active and contains them. Overrides, by
        Config key, are all others. ``suggest`` with these params enqueued and these overrides fixed gives back
        the settings.
        """
        raise NotImplementedError
