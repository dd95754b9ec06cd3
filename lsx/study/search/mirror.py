"""A study in memory for samplers to read: what is drawn from it leaves no trace in it, nor in the real storage."""

import bisect
import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from lsx.study.declared.space import Dimension
from lsx.study.shown.snapshot import Direction

NAME = "mirror"


class Mirror(InMemoryStorage):
    """Trials under their real numbers, which are their ids too, and at most one that is being drawn.

    Optuna's own storage in memory numbers trials as they come and keeps every one, so that an answered proposal would
    stay in it, running for ever.

    Args:
        directions: of the objectives.

    Attributes:
        cache: what genetic samplers keep with a study: the parents of each generation, in its order.
    """

    def __init__(self, directions: Sequence[Direction]) -> None:
        super().__init__()
        self.cache: dict[str, Any] = {}
        self._trials: list[FrozenTrial] = []
        self._number = 0
        self._drawn: FrozenTrial | None = None
        optuna.create_study(storage=self, study_name=NAME, directions=directions, sampler=RandomSampler())

    @property
    def trials(self) -> tuple[FrozenTrial, ...]:
        """What is known, by number."""
        return tuple(self._trials)

    def put(self, trial: FrozenTrial) -> None:
        """Add a trial, or replace the one of its number."""
        index = bisect.bisect_left(self._trials, trial.number, key=lambda one: one.number)
        known = index < len(self._trials) and self._trials[index].number == trial.number
        self._trials[index : index + known] = [trial]

    def forget_parents(self, generation: int) -> None:
        """A generation has got one more trial: later ones have other parents."""
        kept = {key: value for key, value in self.cache.items() if int(key.rpartition(":")[2]) <= generation}
        self.cache = kept

    @contextmanager
    def drawing(self, number: int) -> Iterator[None]:
        """The next trial that is asked for has this number, and is forgotten afterwards."""
        self._number = number
        try:
            yield
        finally:
            self._drawn = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._drawn = Known(self._number, TrialState.RUNNING)
        return self._number

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if self._drawn is not None and self._drawn.number == trial_id:
            return self._drawn
        return next(trial for trial in self._trials if trial.number == trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        drawn = [] if self._drawn is None else [self._drawn]
        found = [trial for trial in (*self._trials, *drawn) if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self.get_trial(trial_id)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.get_trial(trial_id).system_attrs[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.cache

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.cache[key] = value


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    low: Any = dimension.low
    high: Any = dimension.high
    step: Any = dimension.step
    if dimension.type == "int":
        return IntDistribution(low, high, log=dimension.log, step=step or 1)
    return FloatDistribution(low, high, log=dimension.log, step=step)


class Known(FrozenTrial):
    """A trial of a mirror: no dates, no user attributes, and no intermediate values.

    A pruned trial that has intermediate values breaks TPE with several objectives: Optuna sorts such trials by the
    study's only direction.

    Args:
        number: of the real trial; the mirror's id too.
        state: its state.
        values: objective values of a complete trial.
        params: Optuna name to value.
        distributions: Optuna name to what the value could have been.
        system_attrs: what a sampler has noted.
        violations: by constraint; 0 or less is inside.

    Attributes:
        internal: params as samplers calculate with them; of a finished or running trial, not of one that is drawn.
    """

    def __init__(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        params: Mapping[str, Any] | None = None,
        distributions: Mapping[str, BaseDistribution] | None = None,
        system_attrs: Mapping[str, Any] | None = None,
        violations: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            number=number,
            state=state,
            value=None,
            values=values,
            datetime_start=None,
            datetime_complete=None,
            params=dict(params or {}),
            distributions=dict(distributions or {}),
            user_attrs={},
            system_attrs=dict(system_attrs or {}),
            intermediate_values={},
            trial_id=number,
        )
        self._violations = dict(violations or {})
        self.internal = {name: one.to_internal_repr(self.params[name]) for name, one in self.distributions.items()}

    @property
    def constraints(self) -> dict[str, float]:
        """Violations by constraint. Optuna's own parses all attributes, some 7,000 times in a proposal of TPE."""
        return self._violations
