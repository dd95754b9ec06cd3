"""What happens to a trial, written to MLflow, to the journal and to the display, in that order.

MLflow first: a driver killed between the two finds the trial still running in the journal and does it again, so that
nothing is lost and nothing is counted twice.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study.folder import CHECKPOINT, PICTURE, StudyFolder
from lsx.study.ledger import SEARCH, Ledger, Planned
from lsx.study.snapshot import Snapshot, Status, TrialView
from lsx.study.tracking import Tracker

STATUS: Mapping[TrialState, Status] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}
LONGEST_TAG = 5000


class Recorder:
    """The driver's side of all trials.

    Args:
        ledger: the study.
        tracker: its runs; the study's run is open.
        folder: its folder; the lock is held.
        rungs: positions at which the scheduler decides.
    """

    def __init__(self, ledger: Ledger, tracker: Tracker, folder: StudyFolder, rungs: Sequence[int] = ()) -> None:
        self.ledger = ledger
        self.tracker = tracker
        self.folder = folder
        self._rungs = list(rungs)
        self._start = time.monotonic()
        self._views = {
            trial.number: _view(trial) for trial in ledger.study.get_trials(deepcopy=False) if trial.state.is_finished()
        }

    def begin(self) -> dict[str, Any] | None:
        """The next trial as plain data for a worker (see :func:`lsx.study.trial.run_trial`); None at the end."""
        while (planned := self.ledger.next()) is not None:
            self._open(planned)
            if planned.reason is None and planned.config is not None:
                return self._assignment(planned, planned.config)
            self.fail(planned.number, planned.reason or "no configuration")
        return None

    def started(self, number: int) -> int:
        """Count a start of the trial; returns how many more it may have."""
        attempts = int(self._attribute(number, "attempts", 0)) + 1
        self.ledger.note(number, attempts=attempts)
        return max(0, self.ledger.spec.budget.attempts - attempts)

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """Some epochs, as :func:`lsx.study.trial.run_trial` reports them."""
        known = self._progress(number)
        if result["position"] <= known:
            return  # said before, by a worker that was lost after its report
        run_id = self._run(number)
        for row in result["history"]:
            if row["position"] > known:
                labelled = {f"{row['stage']}/{name}": value for name, value in row["metrics"].items()}
                self.tracker.log(run_id, labelled, row["position"])
        if result["picture"]:
            self.tracker.attach(run_id, self.folder.trial(number) / PICTURE)
        if result["guard"] is not None:
            guard = self._attribute(number, "guard", {}) | {str(result["position"]): result["guard"]}
            self.ledger.note(number, guard=guard)
        metrics = self._critic(number) | result["metrics"]
        progress = {name: result[name] for name in ("stage", "position", "total")}
        self.ledger.note(number, last=metrics, progress=progress)
        self._views[number] = replace(self._views[number], metrics=metrics, **progress)

    def checkpointed(self, number: int, path: str | Path) -> None:
        """The checkpoint from which the trial would be continued."""
        self.ledger.note(number, checkpoint=self.folder.relative(path))

    def finish(self, number: int, result: Mapping[str, Any]) -> None:
        """The trial's end: ``final`` metrics, a ``failed`` reason, or neither: the scheduler stopped it."""
        if "failed" in result:
            self.fail(number, result["failed"])
        elif "final" in result:
            self._complete(number, self._critic(number) | result["final"], result.get("reasons", {}))
        else:
            self._prune(number)

    def fail(self, number: int, reason: str, report: str | Path | None = None) -> None:
        """The trial cannot be finished.

        Args:
            number: of the trial.
            reason: one line.
            report: file with details, kept beside the trial.
        """
        reason = " ".join(reason.split())[:500]
        if report is not None and Path(report).is_file():
            shutil.copy(report, self.folder.trial(number) / "error.txt")
            self.tracker.attach(self._run(number), self.folder.trial(number) / "error.txt")
        self._end(number, "failed", reason)
        self.ledger.fail(number, reason)

    def interrupt(self) -> None:
        """End this driver's part: running trials wait, with their checkpoints, for the next one."""
        interrupted = self.running
        for number in interrupted:
            self.ledger.note(number, attempts=max(0, self._attribute(number, "attempts", 0) - 1))
            self._keep_checkpoint(number)
        for number in (*interrupted, *self.ledger.orphans):
            if run_id := self._run(number):
                self.tracker.end(run_id, "KILLED")
        self.tracker.end(self.tracker.parent, "KILLED")

    def rescue(self) -> None:
        """Bring the checkpoints of left-over trials out of Ray's folder and empty that."""
        for number in self.ledger.orphans:
            self._keep_checkpoint(number)
        self.folder.discard_scratch()

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that this driver runs."""
        return [number for number, view in self._views.items() if view.status == "running"]

    def snapshot(self, message: str = "") -> Snapshot:
        """The study as the display shows it."""
        spec = self.ledger.spec
        return Snapshot(
            study=spec.study_name,
            planned=self.ledger.planned,
            trials=tuple(self._views.values()),
            elapsed=time.monotonic() - self._start,
            resumed=self.ledger.resumed,
            tracking=self.tracker.uri,
            message=message,
            objectives=tuple((objective.metric, objective.direction) for objective in spec.objectives),
        )

    def _open(self, planned: Planned) -> None:
        number, config = planned.number, planned.config
        name = trial_name(planned.role, config)
        tags = {"lsx.role": planned.role, "lsx.front": "false"}
        params: dict[str, Any] = {}
        if config is not None:
            tags["lsx.explainer"], tags["lsx.source"] = config.explainer.method, config.data.source
            params = config.flat()
            config.save(self.folder.trial(number) / "config.yaml")
        known = self._attribute(number, "run_id", None)
        run_id = self.tracker.open_trial(number, f"{number:03d} {name}", known, params, tags, again=planned.adopted)
        self.ledger.note(number, run_id=run_id, name=name)
        self.tracker.attach(run_id, self.folder.trial(number) / "config.yaml")
        self._views[number] = _view(self.ledger.trial(number))

    def _assignment(self, planned: Planned, config: Config) -> dict[str, Any]:
        checkpoint = self._attribute(planned.number, "checkpoint", None)
        path = None if checkpoint is None else self.folder.path / checkpoint
        return {
            "number": planned.number,
            "role": planned.role,
            "config": config.plain(),
            "guard": self.ledger.spec.scheduler.metric,
            "rungs": [position for position in self._rungs if position < _epochs(config)],
            "cpus": self.ledger.spec.resources.cpus_per_trial,
            "folder": str(self.folder.trial(planned.number)),
            "checkpoint": str(path) if path is not None and path.is_file() else None,
        }

    def _complete(self, number: int, metrics: dict[str, float], reasons: Mapping[str, str]) -> None:
        tags = {"lsx.reasons": _reasons(reasons)} if reasons else {}
        logged = {f"final/{name}": value for name, value in metrics.items()}
        try:
            values = self.ledger.values(metrics)
        except StudyError as error:
            self.tracker.log(self._run(number), logged, tags=tags)
            self.fail(number, str(error) + self._why(metrics, reasons))
            return
        self._keep_checkpoint(number)
        self.ledger.note(number, metrics=metrics)
        step = self._progress(number)
        self.tracker.log(self._run(number), logged, step, tags)
        self._end(number, "complete", None)
        self.ledger.complete(number, values)
        self._views[number] = replace(self._views[number], metrics=metrics)

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
        run_id = self._run(number)
        tags = {"lsx.status": status} | ({"lsx.reason": reason} if reason else {})
        self.tracker.log(run_id, {}, tags=tags)
        self.tracker.attach(run_id, self.folder.trial(number) / PICTURE)
        self.tracker.end(run_id, {"complete": "FINISHED", "pruned": "KILLED"}.get(status, "FAILED"))  # type: ignore[arg-type]
        self._views[number] = replace(self._views[number], status=status, reason=reason)

    def _keep_checkpoint(self, number: int) -> None:
        """Copy the last checkpoint to the trial's folder, whole or not at all."""
        checkpoint = self._attribute(number, "checkpoint", None)
        kept = self.folder.trial(number) / CHECKPOINT
        source = None if checkpoint is None else self.folder.path / checkpoint
        if source is None or source == kept or not source.is_file():
            return
        part = kept.with_suffix(".part")
        shutil.copy(source, part)
        part.replace(kept)
        self.ledger.note(number, checkpoint=self.folder.relative(kept))

    def _progress(self, number: int) -> int:
        return int(self._attribute(number, "progress", {}).get("position", 0))

    def _run(self, number: int) -> str:
        return str(self._attribute(number, "run_id", ""))

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


def _epochs(config: Config) -> int:
    return sum(getattr(config, stage).epochs for stage in config.stages)


def _reasons(reasons: Mapping[str, str]) -> str:
    """One text that MLflow takes as a tag."""
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())[:LONGEST_TAG]


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
