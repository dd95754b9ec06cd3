"""What happens to a trial, written to MLflow's outbox, to Optuna's storage and to the display, in that order.

The outbox first: a driver killed between the two finds the trial still running in the storage and does it again; what
the outbox has already is not written a second time, so that nothing is lost and nothing is counted twice.
"""

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted
from lsx.study.environment.folder import StudyFolder
from lsx.study.environment.places import DONE, MAPS, PICTURE, Storage, learner_file
from lsx.study.search.ledger import SEARCH, Ledger, Planned
from lsx.study.shown import notes
from lsx.study.shown.snapshot import Snapshot, Status, TrialView
from lsx.study.tracked import inputs
from lsx.study.tracked.outbox import Outbox
from lsx.study.tracked.views import NOTE, tracking_tags
from lsx.study.worker import repeats

STATUS: Mapping[TrialState, Status] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
LONGEST_TAG = 5000
LONGEST_STEP = 5.0
"""Seconds of Tune's loop, beyond which the driver was held up."""
MANIFEST = "manifest.json"


class Recorder:
    """The driver's side of all trials.

    Args:
        ledger: the study.
        outbox: its runs in MLflow; the study's run is open.
        folder: its folder; the lock is held.
        storage: where checkpoints lie.
        rungs: positions at which the scheduler decides.
        tracking: where results are tracked, for people.
        provenance: where the study's data comes from, if it is known.

    Attributes:
        began: when this driver started, on the monotonic clock.
    """

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        folder: StudyFolder,
        storage: Storage,
        rungs: Sequence[int] = (),
        tracking: str = "",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.ledger, self.outbox, self.folder, self.storage = ledger, outbox, folder, storage
        self.began = time.monotonic()
        self._rungs, self._tracking, self._provenance = list(rungs), tracking, provenance or {}
        self._planned = ledger.planned
        self._seen: dict[int, float] = {}
        self._listened = time.monotonic()
        self._stalls: dict[int, str] = {}
        self._drawn: set[int] = set()
        self._views = {
            trial.number: _view(trial) for trial in ledger.study.get_trials(deepcopy=False) if trial.state.is_finished()
        }
        self._unfinished: set[int] = set()  # of thousands of trials only these are looked at in every step

    def begin(self) -> dict[str, Any] | None:
        """The next trial as plain data for a worker (see :func:`lsx.study.worker.trial.run_trial`); None at the end."""
        while (planned := self.ledger.next()) is not None:
            self._open(planned)
            if planned.reason is None and planned.config is not None:
                return self._assignment(planned, planned.config)
            self.fail(planned.number, planned.reason or "no configuration")
        return None

    def started(self, number: int, excused: bool = False) -> int:
        """Count a start of the trial, unless it is ``excused`` (its node was lost); returns how many more it has."""
        attempts = int(self._attribute(number, "attempts", 0)) + (not excused)
        self.ledger.note(number, attempts=attempts)
        self._stalls.pop(number, None)
        self._seen[number] = time.monotonic()
        return max(0, self.ledger.spec.budget.attempts - attempts)

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """A sign of life, or some epochs, as :class:`lsx.study.worker.reporter.Reporter` reports them."""
        self._seen[number] = time.monotonic()
        self._log_history(number, result.get("history", ()))
        if result.get("position", 0) <= self._progress(number):
            return  # nothing new: said before, by a worker that was lost after its report
        if result["picture"]:
            self._drawn.add(number)
        if result["guard"] is not None:
            guard = self._attribute(number, "guard", {}) | {str(result["position"]): result["guard"]}
            self.ledger.note(number, guard=guard)
        metrics = self._critic(number) | result["metrics"]
        progress = {name: result[name] for name in ("stage", "position", "total")}
        self.ledger.note(number, last=metrics, progress=progress, run_id=self.outbox.run_id(number))
        self._views[number] = replace(self._views[number], metrics=metrics, **progress)

    def checkpointed(self, number: int, path: str) -> None:
        """The checkpoint, a folder of the storage's file system, from which the trial would be continued."""
        relative = self.storage.relative(path)
        self.ledger.note(number, checkpoint=relative)
        if number in self._drawn:
            self._drawn.discard(number)
            for picture in self.storage.fetch(relative, [PICTURE], self.folder.trial(number)):
                self.outbox.attach(number, picture)

    def finish(self, number: int, result: Mapping[str, Any]) -> None:
        """The trial's last report: how it ended, or nothing of the kind: the scheduler stopped it."""
        if "failed" in result:
            self.fail(number, result["failed"])
        elif "out_of_memory" in result:
            self._out_of_memory(number, result["out_of_memory"])
        elif "no_room" in result:
            raise StudyError(f"trial {number} finds no room on its disk: {result['no_room']}")
        elif "final" in result:
            self._complete(number, result)
        elif "stopped" not in result:
            self._prune(number)

    def fail(self, number: int, reason: str, report: str | Path | None = None) -> None:
        """The trial cannot be finished.

        Args:
            number: of the trial.
            reason: one line.
            report: file with details, kept beside the trial.
        """
        reason = " ".join(self._stalls.get(number, reason).split())[:500]
        if report is not None and Path(report).is_file():
            shutil.copy(report, self.folder.trial(number) / "error.txt")
            self.outbox.attach(number, self.folder.trial(number) / "error.txt")
        self._end(number, "failed", reason)
        self.ledger.fail(number, reason)

    def excuse(self, number: int) -> None:
        """The trial's node was lost, which is no failure of the trial: it is started again, and loses no start."""
        self._uncount(number)
        self.ledger.retry(number)
        self._views[number] = replace(self._views[number], status="waiting", reason="its node was lost; again")

    def stalled(self) -> list[int]:
        """Running trials that gave no sign of life for ``budget.stalled_after``.

        To be called at every step of the loop: while the driver itself does not listen, waiting for a database or
        stopped by a person, silence says nothing.
        """
        now, patience = time.monotonic(), self.ledger.spec.budget.stalled_after
        deaf, self._listened = now - self._listened, now
        if deaf > LONGEST_STEP:
            self._seen = {number: seen + deaf for number, seen in self._seen.items()}
        return [number for number in self.running if now - self._seen.get(number, now) > patience]

    def note_stall(self, number: int) -> None:
        """The trial's worker is killed for giving no sign of life."""
        minutes = self.ledger.spec.budget.stalled_after / 60
        self._stalls[number] = f"no sign of life for {minutes:.3g} min (budget.stalled_after)"
        self._seen[number] = time.monotonic()

    def log_inputs(self, number: int | None, config: Config | None, parts: Sequence[str]) -> None:
        """Which of the data the trial, or for None the study, uses: train, validation or test."""
        if config is None or config.data.dataset != self._provenance.get("dataset"):
            return  # a study may search datasets, and knows one's origin
        same = config.data == self.ledger.spec.configure({}).data
        if described := inputs.describe(self._provenance, parts, sizes=same):
            self.outbox.log_inputs(number, described)

    def interrupt(self) -> None:
        """End this driver's part: running trials wait, with their checkpoints, for the next one.

        Raises:
            StudyError: the storage is gone, and still counts the starts of the trials that were running.
        """
        interrupted = self.running
        for number in set(interrupted) & self._seen.keys():  # one that waited for its worker was not started
            self._uncount(number)
        with suppress(StudyError):  # what MLflow is not told now, the next driver puts right
            for number in (*interrupted, *self.ledger.orphans):
                self.outbox.log(number, {}, tags={"lsx.status": "interrupted"})
                self.outbox.end(number, "KILLED")
            self.outbox.end(None, "KILLED")

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that this driver runs."""
        return [number for number in sorted(self._unfinished) if self._views[number].status == "running"]

    @property
    def kept(self) -> list[str]:
        """Checkpoints, below the storage's root, that unfinished trials go on from."""
        trials = self.ledger.study.get_trials(deepcopy=False)
        known = [trial.user_attrs.get("checkpoint") for trial in trials if not trial.state.is_finished()]
        return [one for one in known if one]

    def snapshot(self, message: str = "") -> Snapshot:
        """The study as the display shows it."""
        spec = self.ledger.spec
        with suppress(StudyError):  # a storage that is gone stops the study elsewhere, and its end is still shown
            self._planned = self.ledger.planned
        return Snapshot(
            study=spec.study_name,
            planned=self._planned,
            trials=tuple(self._views.values()),
            elapsed=time.monotonic() - self.began,
            resumed=self.ledger.resumed,
            tracking=redacted(self._tracking),
            message=message,
            trouble=self.outbox.trouble or "",
            waiting=self.outbox.waiting,
            objectives=tuple((objective.metric, objective.direction) for objective in spec.objectives),
        )

    def _open(self, planned: Planned) -> None:
        number, config = planned.number, planned.config
        name = trial_name(planned.role, config)
        params: dict[str, Any] = {}
        if config is not None:
            params = config.flat() | {"repeats": self.ledger.spec.repeats}
            config.save(self.folder.trial(number) / "config.yaml")
        tags = self._tags(planned) | {"lsx.trial_name": name}
        self.outbox.open_trial(number, f"{number:03d} {run_name(planned.role, config)}", params, tags)
        self.outbox.attach(number, self.folder.trial(number) / "config.yaml")
        self.log_inputs(number, config, ("train", "validation"))
        self.ledger.note(number, name=name)
        self._views[number] = _view(self.ledger.trial(number))
        self._unfinished.add(number)

    def _tags(self, planned: Planned) -> dict[str, str]:
        """By which people filter runs: all of them on every run, so that no filter misses one."""
        config = planned.config
        return {
            "lsx.role": planned.role,
            "lsx.baseline": _said(planned.role == self.ledger.spec.baseline),
            "lsx.source": "sampler" if planned.role == SEARCH else "reference trial",
            "lsx.explainer": config.explainer.method if config is not None and "joint" in config.stages else "none",
            "lsx.pruned": "false",
            "lsx.front": "false",
            **tracking_tags(),
        }

    def _assignment(self, planned: Planned, config: Config) -> dict[str, Any]:
        spec, checkpoint = self.ledger.spec, self._attribute(planned.number, "checkpoint", None)
        there = checkpoint is not None and self.storage.has(checkpoint)
        return {
            "number": planned.number,
            "role": planned.role,
            "config": config.plain(),
            "repeats": spec.repeats,
            "guard": spec.scheduler.metric,
            "rungs": [position for position in self._rungs if position < epochs(config)],
            "cpus": spec.resources.cpus_per_trial,
            "together": spec.resources.seeds_together,
            "pulse": min(15.0, spec.budget.stalled_after / 4),
            "alone": planned.alone,
            "checkpoint": self.storage.uri(checkpoint) if there else None,
        }

    def _log_history(self, number: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Curves of a single seed by ``<stage>/<metric>``; of several, each by ``seed-<index>/<stage>/<metric>``."""
        known = self.outbox.position(number)
        for row in history:
            if row["position"] > known:
                prefix = f"seed-{row['seed_index']}/" if self.ledger.spec.repeats > 1 else ""
                labelled = {f"{prefix}{row['stage']}/{name}": value for name, value in row["metrics"].items()}
                self.outbox.log(number, labelled, row["step"], position=row["position"])

    def _complete(self, number: int, result: Mapping[str, Any]) -> None:
        metrics: dict[str, float] = self._critic(number) | result["final"]
        reasons, seeds = result.get("reasons", {}), result.get("seeds", {})
        self._log_final(number, metrics | repeats.flat(seeds), reasons, result.get("curves", ()))
        self._keep(number, result.get("manifest"))
        try:
            values = self.ledger.values(metrics)
        except StudyError as error:
            self.fail(number, str(error) + self._why(metrics, reasons))
            return
        self.ledger.note(number, metrics=metrics, seeds=seeds, run_id=self.outbox.run_id(number))
        self._end(number, "complete", None)
        self.ledger.complete(number, values, metrics)
        self._views[number] = replace(self._views[number], metrics=metrics)

    def _log_final(
        self,
        number: int,
        metrics: Mapping[str, float],
        reasons: Mapping[str, str],
        curves: Sequence[Mapping[str, Any]],
    ) -> None:
        step = self._progress(number)
        if self.outbox.position(number) > step:
            return  # a driver that is gone said it
        for row in curves:
            labelled = {f"{row['stage']}/{name}": value for name, value in row["metrics"].items()}
            self.outbox.log(number, labelled, row["position"])
        tags = {"lsx.reasons": _reasons(reasons)} if reasons else {}
        named = {f"final/{name}": value for name, value in metrics.items()}
        self.outbox.log(number, named, step, tags, position=step + 1)

    def _keep(self, number: int, manifest: Mapping[str, Any] | None) -> None:
        """Bring the finished learners to the trial's folder, and write how they came about."""
        folder, checkpoint = self.folder.trial(number), self._attribute(number, "checkpoint", None)
        names = [PICTURE, MAPS, DONE, *(learner_file(index) for index in range(self.ledger.spec.repeats))]
        if checkpoint is not None and PICTURE in {file.name for file in self.storage.fetch(checkpoint, names, folder)}:
            self.outbox.attach(number, folder / PICTURE)
        if manifest is not None:
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
            self.outbox.attach(number, folder / MANIFEST)

    def _out_of_memory(self, number: int, reason: str) -> None:
        if not self.ledger.retry_alone(number):
            self.fail(number, f"out of GPU memory, also alone on its card: {reason}")
            return
        self._uncount(number)
        self._views[number] = replace(self._views[number], status="waiting", reason="out of memory; again, alone")

    def _why(self, metrics: Mapping[str, float], reasons: Mapping[str, str]) -> str:
        """Why the first objective without a finite value has none, as far as the evaluation says."""
        names = [objective.metric for objective in self.ledger.spec.objectives]
        first = next((name for name in names if not math.isfinite(metrics.get(name, math.nan))), "")
        return f": {reasons[first]}" if first in reasons else ""

    def _critic(self, number: int) -> dict[str, float]:
        """The critic's losses, which later stages do not report: a dead critic must be seen at the end, too."""
        last = self._attribute(number, "last", {})
        return {name: value for name, value in last.items() if name.startswith("critic_loss")}

    def _prune(self, number: int) -> None:
        position, metric = self._progress(number), self.ledger.spec.scheduler.metric
        value = self._attribute(number, "last", {}).get(metric)
        seen = "" if value is None else f", {metric} {value:.3g}"
        self._end(number, "pruned", reason := f"stopped by the scheduler after epoch {position}{seen}")
        self.ledger.prune(number, reason)

    def _end(self, number: int, status: Status, reason: str | None) -> None:
        reason = redacted(reason) if reason else None
        metrics = self._attribute(number, "metrics", {})
        tags = {"lsx.status": status, "lsx.pruned": _said(status == "pruned")}
        tags |= {"lsx.reason": reason} if reason else {}
        tags[NOTE] = notes.trial(status, reason, metrics, self.ledger.spec.objectives)
        self.outbox.log(number, {}, tags=tags)
        self.outbox.end(number, {"complete": "FINISHED", "pruned": "KILLED"}.get(status, "FAILED"))  # type: ignore[arg-type]
        self._views[number] = replace(self._views[number], status=status, reason=reason)
        self._unfinished.discard(number)

    def _uncount(self, number: int) -> None:
        """The trial's last start counts for nothing."""
        self.ledger.note(number, attempts=max(0, self._attribute(number, "attempts", 0) - 1))

    def _progress(self, number: int) -> int:
        return int(self._attribute(number, "progress", {}).get("position", 0))

    def _attribute(self, number: int, name: str, default: Any) -> Any:
        return self.ledger.trial(number).user_attrs.get(name, default)


def trial_name(role: str, config: Config | None) -> str:
    """What tells a trial from others, in a few words."""
    if config is None:
        return f"{role} (refused)"
    if "joint" not in config.stages:
        words = "classification only"
    else:
        words = f"{config.explainer.method} λe={config.loss.lambda_e:.3g} {config.critic.images} critic"
    return words if role == SEARCH else f"{role}: {words}"


def run_name(role: str, config: Config | None) -> str:
    """As :func:`trial_name`, with all weights of the explanation losses: MLflow's lists have the room."""
    if config is None or "joint" not in config.stages:
        return trial_name(role, config)
    weights = config.loss
    words = f"{config.explainer.method} λe={weights.lambda_e:.3g} λc={weights.lambda_c:.3g}"
    words += f" λft={weights.lambda_ft:.3g}" if "finetune" in config.stages else ""
    return words if role == SEARCH else f"{role}: {words}"


def epochs(config: Config) -> int:
    """Over all stages of one seed."""
    return sum(getattr(config, stage).epochs for stage in config.stages)


def _reasons(reasons: Mapping[str, str]) -> str:
    """One text that MLflow takes as a tag."""
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())[:LONGEST_TAG]


def _said(fact: bool) -> str:
    return str(fact).lower()


def _view(trial: FrozenTrial) -> TrialView:
    known = trial.user_attrs
    return TrialView(
        number=trial.number,
        name=known.get("name", ""),
        role=known.get("role", SEARCH),
        status=STATUS[trial.state],
        **known.get("progress", {}),
        metrics=known.get("metrics", known.get("last", {})),
        reason=known.get("reason"),
    )
