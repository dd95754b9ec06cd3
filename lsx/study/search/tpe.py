"""TPE over a conditional space, fast enough for studies of thousands of trials."""

from collections.abc import Iterable
from typing import Any

import numpy
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma, default_gamma_multiobjective
from optuna.trial import FrozenTrial, TrialState

_SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class GroupedTPE(TPESampler):
    """Multivariate TPE on groups of parameters: those that trials have either all or none of.

    Draws what TPESampler draws with ``group=True`` and ``constant_liar=True``. That one splits its groups by every
    trial anew, and its trials into good and bad ones for every group, and looks all of their values up for every group;
    here every set of parameters counts once, and trials are split and tabulated once a proposal.
    """

    _groups: list[list[str]]
    _split: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None
    _tables: dict[int, dict[str, Any]]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        known = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        # The newest trial of every set; by the first one, the order of the sets is that of their appearance.
        newest = {frozenset(other.distributions): other for other in known}
        found = {name: one for other in newest.values() for name, one in other.distributions.items()}
        self._groups = _groups(newest)
        return {name: found[name] for group in self._groups for name in group if not found[name].single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        params: dict[str, Any] = {}
        self._split = None
        for group in self._groups:
            joint = {name: search_space[name] for name in group if name in search_space}
            params |= super().sample_relative(study, trial, joint)
        return params

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The best of some draws from the good trials, by how much likelier they are there than among the others."""
        if self._split is None:
            known = [one for one in study.get_trials(deepcopy=False, states=_SEEN) if one.number != trial.number]
            finished = sum(one.state != TrialState.RUNNING for one in known)
            gamma = default_gamma if len(study.directions) == 1 else default_gamma_multiobjective
            self._split, self._tables = _split_trials(study, known, gamma(finished)), {}
        good = self._build_parzen_estimator(study, search_space, self._split[0], handle_below=True)
        others = self._build_parzen_estimator(study, search_space, self._split[1], handle_below=False)
        drawn = good.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, good, others))
        return {name: one.to_external_repr(best[name]) for name, one in search_space.items()}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: optuna.Study
    ) -> dict[str, Any]:
        key = id(trials)  # one of the two lists that live as long as the split
        if not search_space.keys() <= self._tables.get(key, {}).keys():
            names = {name for group in self._groups for name in group} | search_space.keys()
            self._tables[key] = _table(trials, sorted(names))
        columns = [self._tables[key][name] for name in search_space]
        known = ~numpy.isnan(columns).any(axis=0)  # of all names: a trial has all of a group or none
        return {name: column[known] for name, column in zip(search_space, columns, strict=True)}


def _table(trials: Iterable[FrozenTrial], names: list[str]) -> dict[str, Any]:
    """A column for each name, NaN where a trial has no such parameter."""
    rows = [[row.get(name, numpy.nan) for name in names] for row in map(_internal, trials)]
    return dict(zip(names, numpy.array(rows, dtype=float).reshape(-1, len(names)).T, strict=True))


def internal(trial: FrozenTrial) -> dict[str, float]:
    """A trial's values as samplers calculate with them: numbers, categories by their index."""
    return {name: one.to_internal_repr(trial.params[name]) for name, one in trial.distributions.items()}


def _internal(trial: FrozenTrial) -> dict[str, float]:
    known: dict[str, float] | None = getattr(trial, "internal", None)
    return internal(trial) if known is None else known


def _groups(sets: Iterable[frozenset[str]]) -> list[list[str]]:
    """The coarsest groups of which every set is a union."""
    groups: list[frozenset[str]] = []
    for names in sets:
        split = [part for group in groups for part in (group & names, group - names)]
        groups = [group for group in (*split, names.difference(*groups)) if group]
    return [sorted(group) for group in groups]
