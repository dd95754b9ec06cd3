"""What proposes the next configuration of a study.

The samplers work on a copy of the study in memory. The real storage gets every proposal whole, and the copy shows old
trials in today's terms: moved bounds, changed constraints, another sampler.
"""

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet
from lsx.study.search.mirror import NAME, Known, Mirror, distribution
from lsx.study.search.tpe import GroupedTPE as GroupedTPE
from lsx.study.search.tried import Tried

quiet.hush()  # Optuna sets its loggers up when it is imported

DRAWS = 50
"""Draws for a configuration that was not tried, before the untried ones are counted out."""

Genetic = type[NSGAIISampler] | type[NSGAIIISampler]
_GENETIC: dict[str, Genetic] = {"nsga2": NSGAIISampler, "nsga3": NSGAIIISampler}
_STREAMS = ("draw", "parents", "left")  # what random numbers are for; none shares its numbers with another


@dataclass(frozen=True)
class Proposal:
    """A configuration, ready to be entered into the storage.

    Attributes:
        params: Optuna name to value.
        distributions: Optuna name to what the value was drawn from.
        system_attrs: what the sampler must find again after a restart.
        values: Config key to value.
    """

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    system_attrs: dict[str, Any]
    values: dict[str, Any]


class Proposer:
    """Proposes configurations that were not tried.

    A proposal depends on the study's seed, on its number and on the other trials alone: a proposer that is built anew
    goes on as the old one would have.

    Args:
        spec: the study.
        trials: all of its trials, as they stand.
    """

    def __init__(self, spec: StudySpec, trials: Sequence[FrozenTrial]) -> None:
        self._spec = spec
        self._space = spec.search_space
        self._parameters = {one.name: one for one in self._space}
        self._distributions = {one.name: distribution(one.dimension) for one in self._space}
        self._genetic = _GENETIC.get(spec.sampler.type)
        self._tried = Tried(spec)
        self._mirror = Mirror([objective.direction for objective in spec.objectives])
        for trial in trials:
            self.learn(trial)

    @property
    def left(self) -> int | None:
        """Configurations that were not tried; None where they are too many to be counted."""
        return self._tried.left

    def learn(self, trial: FrozenTrial) -> None:
        """Take note of a trial of the study that was added, or that changed."""
        if trial.state == TrialState.WAITING:
            return  # it has no parameters yet
        config: Mapping[str, Any] | None = trial.user_attrs.get("config")
        if config is not None or trial.params:
            self._tried.add(self._settings(trial) if config is None else config)
        seen = self._seen(trial)
        self._mirror.put(seen)
        if self._genetic is not None and seen.state == TrialState.COMPLETE:
            self._mirror.forget_parents(seen.system_attrs[_generation_key(self._genetic)])

    def propose(self, number: int) -> Proposal | None:
        """A configuration for the trial that will have this number; None: there is none that was not tried."""
        if self.left == 0:
            return None
        if self._spec.sampler.type == "grid":
            return self._proposal(self._tried.first_left(), {})
        self._choose_parents()
        for attempt in range(DRAWS):
            proposal = self._draw(number, attempt)
            if proposal.values not in self._tried:
                return proposal
        if self.left is None:
            return proposal
        chance = random.Random(_seed(self._spec.seed, "left", number))
        return self._proposal(self._tried.any_left(chance), proposal.system_attrs)

    def _draw(self, number: int, attempt: int) -> Proposal:
        study = self._view(_sampler(self._spec, _seed(self._spec.seed, "draw", number, attempt)))
        with self._mirror.drawing(number):
            values = self._space.suggest(study.ask())
            return self._proposal(values, _lasting(self._mirror.get_trial(number)))

    def _view(self, sampler: BaseSampler) -> optuna.Study:
        """The mirror for one use: Optuna's studies remember trials as they were."""
        return optuna.load_study(study_name=NAME, storage=self._mirror, sampler=sampler)

    def _proposal(self, values: Mapping[str, Any], system_attrs: dict[str, Any]) -> Proposal:
        active = self._space.active(values)
        params = {one.name: values[one.key] for one in active}
        return Proposal(params, {name: self._distributions[name] for name in params}, system_attrs, dict(values))

    def _settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """What a trial without a configuration was to be run with: Config refused it."""
        values = {one.key: trial.params[one.name] for one in self._space if one.name in trial.params}
        return {**values, **trial.user_attrs.get("overrides", {})}

    def _seen(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial as the samplers shall see it."""
        params = {
            name: value
            for name, value in trial.params.items()
            if name in self._parameters and self._parameters[name].dimension.contains(value)
        }
        complete, state = trial.state == TrialState.COMPLETE, trial.state
        if complete and self._genetic is not None and not self._is_whole(params):
            state = TrialState.FAIL  # no parent, and Optuna crosses over only what all complete trials have
        lasting = _lasting(trial)
        if self._genetic is not None:
            lasting.setdefault(_generation_key(self._genetic), 0)  # a reference trial, or one of another sampler
        return Known(
            trial.number,
            state,
            values=trial.values if complete else None,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            system_attrs=lasting,
            violations=violations(self._spec, trial.user_attrs.get("metrics", {})) if complete else None,
        )

    def _is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether params are a point of the space, and not a part of one."""
        values = {one.key: params[one.name] for one in self._space if one.name in params}
        return {one.name for one in self._space.active(values)} == params.keys()

    def _choose_parents(self) -> None:
        """Let every generation have parents that the study alone decides.

        Left to itself, the sampler of a proposal would choose them, with the proposal's random numbers.
        """
        if self._genetic is None:
            return
        key, population = _generation_key(self._genetic), self._spec.sampler.population
        complete = [one for one in self._mirror.trials if one.state == TrialState.COMPLETE]
        generations = [one.system_attrs[key] for one in complete]
        newest = max(generations, default=0)
        begun = newest + (generations.count(newest) >= population)
        for generation in range(len(self._mirror.cache) + 1, begun + 1):
            sampler = _breeder(self._genetic, population, _seed(self._spec.seed, "parents", generation))
            parents = sampler.get_parent_population(self._view(sampler), generation)
            if len(parents) < 2:  # moved bounds have left too few; without any, Optuna draws at random
                self._mirror.cache[next(reversed(self._mirror.cache))] = []


def violations(spec: StudySpec, metrics: Mapping[str, Any]) -> dict[str, float]:
    """How far final metrics lie outside of the constraints, by metric; 0 or less is inside.

    What is missing or not a number violates its constraint by 1.
    """
    found: dict[str, float] = {}
    for one in spec.constraints:
        value = metrics.get(one.metric)
        known = isinstance(value, int | float) and not math.isnan(value)
        violation = one.violation(value) if known and value is not None else 1.0
        found[one.metric] = max(violation, found.get(one.metric, -math.inf))
    return found


def feasible(spec: StudySpec, metrics: Mapping[str, Any]) -> bool:
    """Whether final metrics satisfy all constraints."""
    return all(value <= 0 for value in violations(spec, metrics).values())


def _sampler(spec: StudySpec, seed: int) -> BaseSampler:
    genetic = _GENETIC.get(spec.sampler.type)
    if genetic is not None:
        return _breeder(genetic, spec.sampler.population, seed)
    if spec.sampler.type == "random":
        return RandomSampler(seed=seed)
    return GroupedTPE(
        seed=seed,
        n_startup_trials=spec.sampler.startup_trials,
        multivariate=True,
        constant_liar=True,  # trials run side by side
    )


def _breeder(genetic: Genetic, population: int, seed: int) -> NSGAIISampler | NSGAIIISampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return genetic(population_size=population, seed=seed)


def _seed(seed: int, stream: str, *numbers: int) -> int:
    """A seed of its own for every use; below 2³², as Optuna needs it."""
    return int(numpy.random.SeedSequence([seed, _STREAMS.index(stream), *numbers]).generate_state(1)[0])


def _generation_key(genetic: type[BaseSampler]) -> str:
    return f"{genetic.__name__}:generation"


def _lasting(trial: FrozenTrial) -> dict[str, Any]:
    """What samplers must find again: generations. TPE notes only what is among the parameters once they are whole."""
    return {key: value for key, value in trial.system_attrs.items() if key.endswith(":generation")}
