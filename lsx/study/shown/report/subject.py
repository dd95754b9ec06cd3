"""What a report is about: a study, its trials by part, and the words for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from lsx.config import flatten
from lsx.study.declared.space import Space
from lsx.study.declared.spec import StudySpec
from lsx.study.search.proposer import Proposer
from lsx.study.shown import results
from lsx.study.shown.archive import Past
from lsx.study.shown.report.markup import label, number, readable
from lsx.study.shown.results import interval

MOST_BEST = 3
"""Trials of the front that are shown beside the chosen one."""

LONGEST_REASON = 120

STATES = {"fail": "failed"}
"""Optuna's words that are not for people."""


class LeftOut(Exception):
    """A part of the report cannot be made; the message says why, in one sentence."""


@dataclass(frozen=True)
class Subject:
    """A study, looked at once.

    Attributes:
        past: as it stands.
    """

    past: Past

    @property
    def spec(self) -> StudySpec:
        """As it was last declared."""
        return self.past.spec

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All of them, by number."""
        found: list[FrozenTrial] = self.past.study.get_trials(deepcopy=False)
        return found

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """Those with a value for every objective."""
        return results.complete(self.past.study, self.spec)

    @cached_property
    def front(self) -> list[FrozenTrial]:
        """The feasible trials that none dominates."""
        return results.front(self.past.study, self.spec)

    @cached_property
    def first(self) -> FrozenTrial | None:
        """The baseline."""
        return results.baseline(self.past.study, self.spec)

    @cached_property
    def chosen(self) -> FrozenTrial | None:
        """The front's knee."""
        return results.choose(self.past.study, self.spec)

    @cached_property
    def best(self) -> list[FrozenTrial]:
        """A few others of the front, spread over it."""
        shown = {one.number for one in (self.first, self.chosen) if one is not None}
        others = [one for one in self.front if one.number not in shown]
        if len(others) <= MOST_BEST:
            return others
        step = (len(others) - 1) / (MOST_BEST - 1)
        return [others[round(index * step)] for index in range(MOST_BEST)]

    @cached_property
    def featured(self) -> FrozenTrial | None:
        """The trial that is shown most closely: the chosen one, or the next of the front where that is the baseline."""
        if self.chosen is not None and self.role(self.chosen) == "chosen":
            return self.chosen
        return self.best[0] if self.best else None

    @cached_property
    def hovers(self) -> dict[int, str]:
        """What plotly shows of a trial when the pointer is on it, by number: values and configuration."""
        return {trial.number: self._hover(trial) for trial in self.trials}

    @cached_property
    def planned(self) -> int:
        """Trials of the budget, as the driver had it, or of the space where it has fewer configurations."""
        budget = int(self.past.study.user_attrs.get("planned", self.spec.budget.trials))
        left = Proposer(self.spec, self.trials).left
        known = len(self.trials)
        return max(known, budget if left is None else min(budget, known + left))

    @property
    def unfinished(self) -> int:
        """Planned trials that have not come to an end."""
        return self.planned - sum(one.state.is_finished() for one in self.trials)

    def file(self, trial: FrozenTrial, name: str) -> Path:
        """A file of a trial, there or not; no folder is made."""
        return self.past.folder.path / "trials" / f"{trial.number:04d}" / name

    def role(self, trial: FrozenTrial) -> str:
        """``baseline``, ``chosen``, or nothing."""
        if self.first is not None and trial.number == self.first.number:
            return "baseline"
        return "chosen" if self.chosen is not None and trial.number == self.chosen.number else ""

    def title(self, trial: FrozenTrial) -> str:
        """``#7, chosen``."""
        role = self.role(trial)
        return f"#{trial.number}, {role}" if role else f"#{trial.number}"

    def values(self, trial: FrozenTrial) -> dict[str, str]:
        """Objectives with their intervals, for people; only those that are known."""
        known = trial.user_attrs.get("metrics", {})
        return {
            one.metric: f"{known[one.metric]:.4f}{interval(trial, 'seeds', one.metric)}"
            for one in self.spec.objectives
            if isinstance(known.get(one.metric), int | float)
        }

    def settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """What tells a trial's configuration from others: searched settings that it has, or a reference's own."""
        own: Mapping[str, Any] = self.spec.reference_trials.get(trial.user_attrs.get("role", ""), {})
        searched = {one.key: trial.params[one.name] for one in self._space if one.name in trial.params}
        return {**flatten(own), **searched}

    @cached_property
    def _space(self) -> Space:
        return self.spec.search_space

    def _hover(self, trial: FrozenTrial) -> str:
        known = trial.user_attrs
        lines = [f"<b>{label(self.title(trial))}</b>", label(known.get("name", known.get("role", "")))]
        lines += [f"{label(readable(name))} {label(value)}" for name, value in self.values(trial).items()]
        lines += [label(known["reason"][:LONGEST_REASON])] if "reason" in known else []
        lines += [f"{label(key)}: {label(number(value))}" for key, value in self.settings(trial).items()]
        return "<br>".join(line for line in lines if line)
