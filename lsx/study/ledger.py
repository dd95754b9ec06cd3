"""The Optuna side of a study: the only record of what was planned, started and finished.

Everything that a restarted driver must know stands in the journal: a trial's whole configuration (sealed when it is
suggested), how often it was started, its checkpoint, its tracking run.
"""

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from lsx.config import Config
from lsx.errors import ConfigError, StudyError
from lsx.study.declaration import difference
from lsx.study.spec import StudySpec

SEARCH = "search"


@dataclass(frozen=True)
class Planned:
    """A trial that is to be started, or started again.

    Attributes:
        number: its number in the study.
        role: ``search`` or the reference trial's name.
        config: its sealed configuration; None when Config refuses what was suggested.
        adopted: it was left running by a driver that is gone.
        reason: why it must not be started (the refusal, or too many starts).
    """

    number: int
    role: str
    config: Config | None
    adopted: bool = False
    reason: str | None = None


class Ledger:
    """The study in its journal.

    Args:
        spec: the study.
        journal: path of the journal file.
        trials: planned trials; the spec's budget by default.

    Attributes:
        study: Optuna's view.
        resumed: trials that were finished before.

    Raises:
        StudyError: the journal is of a study that was declared differently, or cannot be read.
    """

    def __init__(self, spec: StudySpec, journal: Path, trials: int | None = None) -> None:
        self.spec = spec
        self.study = _open(spec, journal)
        self._accept()
        self._enqueue_references()
        everything = self.study.get_trials(deepcopy=False)
        self.planned = max(trials or spec.budget.trials, len(everything))
        self.resumed = sum(trial.state.is_finished() for trial in everything)
        self._orphans = [trial.number for trial in everything if trial.state == TrialState.RUNNING]
        self.study.sampler = _sampler(spec, spec.seed + len(everything))
        self._space = spec.search_space

    @property
    def identity(self) -> str:
        """Tells this study from others of its name."""
        identity: str = self.study.user_attrs["identity"]
        return identity

    @property
    def orphans(self) -> tuple[int, ...]:
        """Trials left running by a driver that is gone, not taken up yet."""
        return tuple(self._orphans)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to be started."""
        return not self._orphans and not self._may_ask()

    def trial(self, number: int) -> FrozenTrial:
        """The trial of that number, as it stands."""
        return self.study.get_trials(deepcopy=False)[number]

    def next(self) -> Planned | None:
        """The next trial to start: left-over ones first, then references, then new suggestions; None at the end."""
        if self._orphans:
            return self._adopt(self._orphans.pop(0))
        if not self._may_ask():
            return None
        return self._seal(self.study.ask(), adopted=False)

    def note(self, number: int, **attributes: Any) -> None:
        """Write user attributes of a trial; None values are left out."""
        for name, value in attributes.items():
            if value is not None:
                self.study._storage.set_trial_user_attr(self.trial(number)._trial_id, name, value)

    def note_study(self, **attributes: Any) -> None:
        """Write user attributes of the study."""
        for name, value in attributes.items():
            self.study.set_user_attr(name, value)

    def view(self) -> optuna.Study:
        """A copy in memory with what is learnt after a trial's end (test metrics) among its user attributes.

        Optuna refuses to change finished trials, so that such findings are kept with the study.
        """
        view = optuna.create_study(study_name=self.study.study_name, directions=self.study.directions)
        late = self.study.user_attrs.get("late", {})
        for trial in self.study.get_trials():
            trial.user_attrs = {**trial.user_attrs, **late.get(str(trial.number), {})}
            view.add_trial(trial)
        for name, value in self.study.user_attrs.items():
            view.set_user_attr(name, value)
        return view

    def note_late(self, number: int, **attributes: Any) -> None:
        """Write attributes of a finished trial."""
        late = dict(self.study.user_attrs.get("late", {}))
        late[str(number)] = {**late.get(str(number), {}), **attributes}
        self.note_study(late=late)

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

    def complete(self, number: int, values: list[float]) -> None:
        """The trial is finished with these objective values."""
        self.study.tell(number, values=values)

    def prune(self, number: int, reason: str) -> None:
        """The scheduler stopped the trial."""
        self.note(number, reason=reason)
        self.study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """The trial cannot be finished."""
        self.note(number, reason=reason)
        self.study.tell(number, state=TrialState.FAIL)

    def guards(self) -> dict[int, dict[int, float]]:
        """What the scheduler saw of earlier search trials: trial number to position to guard metric."""
        return {
            trial.number: {int(position): value for position, value in trial.user_attrs.get("guard", {}).items()}
            for trial in self.study.get_trials(deepcopy=False)
            if trial.user_attrs.get("role") == SEARCH and trial.state != TrialState.FAIL
        }

    def _may_ask(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        return len(trials) < self.planned or any(trial.state == TrialState.WAITING for trial in trials)

    def _adopt(self, number: int) -> Planned:
        frozen = self.trial(number)
        starts = frozen.user_attrs.get("attempts", 0)
        planned = self._seal(Trial(self.study, frozen._trial_id), adopted=True)
        if starts < self.spec.budget.attempts or planned.reason:
            return planned
        reason = f"started {starts} times without finishing (budget.attempts is {self.spec.budget.attempts})"
        return Planned(number, planned.role, planned.config, adopted=True, reason=reason)

    def _seal(self, trial: Trial, adopted: bool) -> Planned:
        """Complete the suggestion and write the configuration down; a sealed one is taken as it is."""
        known = trial.user_attrs
        role = known.get("role", SEARCH)
        try:
            if "config" in known:
                config = Config.build(known["config"])
            else:
                config = self.spec.configure(self._space.suggest(trial, known.get("overrides")))
        except ConfigError as error:
            self.note(trial.number, role=role)
            return Planned(trial.number, role, None, adopted, str(error))
        self.note(trial.number, role=role, config=config.flat())
        return Planned(trial.number, role, config, adopted)

    def _accept(self) -> None:
        """Refuse a study that was declared differently; declare a new one."""
        ours = json.loads(json.dumps(self.spec.fingerprint()))
        known = self.study.user_attrs
        if "fingerprint" not in known:
            self.note_study(identity=known.get("identity", uuid.uuid4().hex), fingerprint=ours)
            return
        changes = difference(known["fingerprint"], ours)
        if changes:
            raise StudyError(
                f"study {self.spec.study_name!r} was started with other settings: {'; '.join(changes)}. "
                "Undo the change, rename the study, or start over with --fresh (the old folder is kept aside)"
            )

    def _enqueue_references(self) -> None:
        present = {trial.user_attrs.get("role") for trial in self.study.get_trials(deepcopy=False)}
        for name in self.spec.reference_trials:
            if name not in present:
                params, overrides = self.spec.reference(name)
                self.study.enqueue_trial(params, user_attrs={"role": name, "overrides": overrides})


def _open(spec: StudySpec, journal: Path) -> optuna.Study:
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(
            storage=storage,
            study_name=spec.study_name,
            directions=[objective.direction for objective in spec.objectives],
            load_if_exists=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(
            f"study journal {str(journal)!r} cannot be read: {error}; --fresh sets it aside and starts over"
        ) from None


def _sampler(spec: StudySpec, seed: int) -> BaseSampler:
    """A sampler whose seed depends on the trials so far: the same seed after a restart would repeat itself."""
    if spec.sampler.type == "random":
        return RandomSampler(seed=seed)
    return TPESampler(
        seed=seed,
        n_startup_trials=spec.sampler.startup_trials,
        multivariate=True,
        group=True,
        constant_liar=True,  # trials run side by side
    )
