"""The Optuna side of a study: the only record of what was planned, started and finished.

Everything that a restarted driver must know stands in the storage: a trial's whole configuration (sealed when it is
suggested), how often it was started, its checkpoint, its tracking run.
"""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from lsx.config import Config
from lsx.errors import ConfigError, StudyError
from lsx.study.declared.declaration import compatible, difference
from lsx.study.declared.spec import StudySpec
from lsx.study.search.late import LATE
from lsx.study.search.late import view as view
from lsx.study.search.proposer import Proposal, Proposer, violations

SEARCH = "search"


@dataclass(frozen=True)
class Planned:
    """A trial that is to be started, or started again.

    Attributes:
        number: its number in the study.
        role: ``search`` or the reference trial's name.
        config: its sealed configuration; None when Config refuses what was suggested.
        adopted: it was left running by a driver that is gone, or is tried again.
        reason: why it must not be started (the refusal, or too many starts).
        alone: it gets the whole GPU, since it ran out of a share's memory.
    """

    number: int
    role: str
    config: Config | None
    adopted: bool = False
    reason: str | None = None
    alone: bool = False


class Ledger:
    """The study in its storage.

    Args:
        spec: the study.
        study: Optuna's, see :func:`lsx.study.search.optunastore.open_study`.
        trials: planned trials; the spec's budget by default.

    Attributes:
        study: Optuna's view.
        resumed: trials that were finished before.
        edits: what changed in the study's declaration since the last driver, one line each.

    Raises:
        StudyError: the study was declared so differently that old and new trials cannot stand side by side, or the
            storage cannot be read.
    """

    def __init__(self, spec: StudySpec, study: optuna.Study, trials: int | None = None) -> None:
        self.spec = spec
        self.study = study
        self._storage: Any = study._storage
        self._ids: dict[int, int] = {}
        self.edits = self._accept()
        self._enqueue_references()
        everything = study.get_trials(deepcopy=False)
        self._budget = max(trials or spec.budget.trials, len(everything))
        self.resumed = sum(trial.state.is_finished() for trial in everything)
        study.sampler = RandomSampler(seed=spec.seed)  # for what people enqueue without all of its parameters
        self._again = [trial.number for trial in everything if trial.state == TrialState.RUNNING]
        self._proposer = Proposer(spec, everything)

    @property
    def planned(self) -> int:
        """Trials of the budget, or of the space where it has fewer configurations."""
        if (left := self._proposer.left) is None:
            return self._budget
        known = len(self._everything())
        return max(known, min(self._budget, known + left))

    @property
    def identity(self) -> str:
        """Tells this study from others of its name."""
        identity: str = self.study.user_attrs["identity"]
        return identity

    @property
    def orphans(self) -> tuple[int, ...]:
        """Trials left running by a driver that is gone, or to be tried again, not taken up yet."""
        return tuple(self._again)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to be started."""
        return not self._again and not self._may_ask(self._everything())

    @property
    def done(self) -> bool:
        """Whether all trials of the budget are finished."""
        return self.exhausted and all(one.state.is_finished() for one in self._everything())

    @property
    def seconds_used(self) -> float:
        """For which drivers have run this study."""
        return float(self.study.user_attrs.get("seconds_used", 0.0))

    def trial(self, number: int) -> FrozenTrial:
        """The trial of that number, as it stands."""
        if number not in self._ids:
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        found: FrozenTrial = self._storage.get_trial(self._ids[number])
        return found

    def next(self) -> Planned | None:
        """The next trial to start: left-over ones first, then references, then new suggestions; None at the end."""
        if self._again:
            return self._adopt(self._again.pop(0))
        known = self._everything()
        if not self._may_ask(known):
            return None
        if self._waiting(known):
            return self._seal(self.study.ask().number)
        proposal = self._proposer.propose(len(known))
        return None if proposal is None else self._begin(proposal)

    def retry_alone(self, number: int) -> bool:
        """Plan a trial that ran out of a shared GPU's memory once more; False if that was done before."""
        if self.trial(number).user_attrs.get("alone"):
            return False
        self.note(number, alone=True)
        self.retry(number)
        return True

    def retry(self, number: int) -> None:
        """Plan an unfinished trial once more."""
        self._again.append(number)

    def forgive(self) -> None:
        """Give the trials left running their last start back: it was the surroundings that failed."""
        for number in self._again:
            self.note(number, attempts=max(0, self.trial(number).user_attrs.get("attempts", 0) - 1))

    def note(self, number: int, **attributes: Any) -> None:
        """Write user attributes of a trial; those that are None, or there already, are left out."""
        known = self.trial(number)
        news = {name: value for name, value in attributes.items() if value not in (None, known.user_attrs.get(name))}
        if news:
            self._storage.set_trial_user_attrs(known._trial_id, news)

    def note_study(self, **attributes: Any) -> None:
        """Write user attributes of the study."""
        for name, value in attributes.items():
            self.study.set_user_attr(name, value)

    def view(self) -> optuna.Study:
        """See :func:`view`."""
        return view(self.study)

    def note_late(self, number: int, **attributes: Any) -> None:
        """Write attributes of a finished trial."""
        name = f"{LATE}{number}"
        self.note_study(**{name: {**self.study.user_attrs.get(name, {}), **attributes}})

    def values(self, metrics: Mapping[str, float]) -> list[float]:
        """The objectives' values among final metrics.

        Raises:
            StudyError: one is missing or not finite: such a trial has failed.
        """
        values = [float(metrics.get(objective.metric, math.nan)) for objective in self.spec.objectives]
        for objective, value in zip(self.spec.objectives, values, strict=True):
            if not math.isfinite(value):
                raise StudyError(f"objective {objective.metric} is {value}")
        return values

    def complete(self, number: int, values: list[float], metrics: Mapping[str, float]) -> None:
        """The trial is finished with these objective values; its metrics decide whether it is feasible."""
        trial = optuna.trial.Trial(self.study, self.trial(number)._trial_id)
        for name, violation in violations(self.spec, metrics).items():
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        self._tell(number, TrialState.COMPLETE, values)

    def prune(self, number: int, reason: str) -> None:
        """The scheduler stopped the trial."""
        self.note(number, reason=reason)
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """The trial cannot be finished."""
        self.note(number, reason=reason)
        self._tell(number, TrialState.FAIL)

    def guards(self) -> dict[int, dict[int, float]]:
        """What the scheduler saw of earlier search trials: trial number to position to guard metric."""
        return {
            trial.number: {int(position): value for position, value in trial.user_attrs.get("guard", {}).items()}
            for trial in self._everything()
            if trial.user_attrs.get("role") == SEARCH
        }

    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        self.study.tell(number, values=values, state=state)
        self._proposer.learn(self.trial(number))

    def _may_ask(self, known: Sequence[FrozenTrial]) -> bool:
        return self._waiting(known) or len(known) < self.planned

    def _waiting(self, known: Sequence[FrozenTrial]) -> bool:
        return any(trial.state == TrialState.WAITING for trial in known)

    def _everything(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _begin(self, proposal: Proposal) -> Planned:
        """Enter a proposal into the storage, whole or not at all."""
        config, reason = self._configured(proposal.values)
        sealed = {} if config is None else {"config": config.flat()}
        trial = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            system_attrs=proposal.system_attrs,
            user_attrs={"role": SEARCH, **sealed},
        )
        known = self._storage.get_trial(self._storage.create_new_trial(self.study._study_id, template_trial=trial))
        number = known.number
        self._proposer.learn(known)
        return Planned(number, SEARCH, config, reason=reason)

    def _adopt(self, number: int) -> Planned:
        known = self.trial(number).user_attrs
        planned = self._seal(number, adopted=True)
        starts = known.get("attempts", 0)
        if starts < self.spec.budget.attempts or planned.reason:
            return planned
        reason = f"started {starts} times without finishing (budget.attempts is {self.spec.budget.attempts})"
        return Planned(number, planned.role, planned.config, adopted=True, reason=reason)

    def _seal(self, number: int, adopted: bool = False) -> Planned:
        """Write down the configuration of a trial that was waiting; a sealed one is taken as it is."""
        known = self.trial(number).user_attrs
        role, alone = known.get("role", SEARCH), bool(known.get("alone"))
        if "config" in known:
            return Planned(number, role, Config.build(known["config"]), adopted, alone=alone)
        trial = optuna.trial.Trial(self.study, self.trial(number)._trial_id)
        config, reason = self._configured(self.spec.search_space.suggest(trial, known.get("overrides")))
        self.note(number, role=role, config=None if config is None else config.flat())
        self._proposer.learn(self.trial(number))
        return Planned(number, role, config, adopted, reason)

    def _configured(self, values: Mapping[str, Any]) -> tuple[Config | None, str | None]:
        try:
            return self.spec.configure(values), None
        except ConfigError as error:
            return None, str(error)

    def _accept(self) -> list[str]:
        """Refuse a study that was declared too differently, note a change, declare a new one."""
        ours = json.loads(json.dumps(self.spec.fingerprint()))
        known = self.study.user_attrs
        if "fingerprint" not in known:
            self.note_study(identity=known.get("identity", uuid.uuid4().hex), fingerprint=ours)
            return []
        changes = difference(known["fingerprint"], ours)
        if changes and not compatible(known["fingerprint"], ours):
            raise StudyError(
                f"study {self.spec.study_name!r} was started with other settings: {'; '.join(changes)}. "
                "Undo the change, rename the study, or start over with --fresh (the old folder is kept aside)"
            )
        if changes:
            edits = known.get("edits", [])
            note = {"time": time.time(), "trials": len(self._everything()), "changes": changes}
            noted = bool(edits) and edits[-1]["changes"] == changes  # by a driver killed before the next line
            self.note_study(edits=edits if noted else [*edits, note], fingerprint=ours)
        return changes

    def _enqueue_references(self) -> None:
        present = {trial.user_attrs.get("role") for trial in self._everything()}
        for name in self.spec.reference_trials:
            if name not in present:
                params, overrides = self.spec.reference(name)
                self.study.enqueue_trial(params, user_attrs={"role": name, "overrides": overrides})
