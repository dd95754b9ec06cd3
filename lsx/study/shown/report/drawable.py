"""A study as Optuna's plots want it: in memory, with today's constraints, and nothing in it that is not to be shown."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lsx.study.search.proposer import violations
from lsx.study.shown.report.markup import label, readable
from lsx.study.shown.report.subject import Subject


def drawable(subject: Subject, objectives: Sequence[int] | None = None) -> optuna.Study:
    """A copy with safe texts and without user attributes, which Optuna would show whole when a trial is hovered over.

    Args:
        subject: the study.
        objectives: those that it shall have; all by default.
    """
    kept = list(range(len(subject.spec.objectives)) if objectives is None else objectives)
    aims = [subject.spec.objectives[index] for index in kept]
    study = optuna.create_study(directions=[one.direction for one in aims])
    study.set_metric_names([label(readable(one.metric)) for one in aims])
    complete = {one.number for one in subject.complete}
    for trial in subject.trials:
        study.add_trial(_copy(trial, subject, kept if trial.number in complete else None))
    return study


def _copy(trial: FrozenTrial, subject: Subject, kept: Sequence[int] | None) -> FrozenTrial:
    """One that is complete without a value for every objective counts as failed."""
    state = TrialState.FAIL if kept is None and trial.state == TrialState.COMPLETE else trial.state
    distributions = {label(name): _safe(one) for name, one in trial.distributions.items()}
    made = create_trial(
        state=state,
        values=None if kept is None else [trial.values[index] for index in kept],
        params={label(name): _plain(value) for name, value in trial.params.items()},
        distributions=distributions,
        constraints=violations(subject.spec, trial.user_attrs.get("metrics", {})) if kept is not None else None,
    )
    made.datetime_start, made.datetime_complete = trial.datetime_start, trial.datetime_complete
    return made


def _safe(one: BaseDistribution) -> BaseDistribution:
    if isinstance(one, CategoricalDistribution):
        return CategoricalDistribution([_plain(choice) for choice in one.choices])
    return one


def _plain(value: Any) -> Any:
    return label(value) if isinstance(value, str) else value
