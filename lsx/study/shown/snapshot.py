"""What a running study looks like from outside: the display reads this and nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["running", "waiting", "complete", "pruned", "failed"]
Direction = Literal["maximize", "minimize"]
LEAST_PROGRESS = 0.25  # trials; below it a remaining time would be a guess


@dataclass(frozen=True)
class TrialView:
    """One trial that has started.

    Attributes:
        number: the trial's number in the study, from 0.
        name: readable name, one line.
        role: ``search``, or the reference trial's name.
        status: where it stands; waiting: to be started again.
        stage: the running stage; None before the first epoch.
        position, total: epochs finished and planned over all stages.
        metrics: latest figures by name; a complete trial's objectives are among them.
        reason: why it was pruned or failed.
    """

    number: int
    name: str
    role: str = "search"
    status: Status = "running"
    stage: str | None = None
    position: int = 0
    total: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """The whole study at one moment.

    Attributes:
        study: its name.
        planned: trials of the budget.
        trials: those that have started, in any order.
        elapsed: seconds since this run of the driver started.
        resumed: trials that were finished before this run started.
        tracking: where results are tracked, for people.
        message: what is happening when no trial runs (starting Ray, ...).
        trouble: why MLflow does not take what it is told, while that is so.
        waiting: entries for MLflow that wait on disk.
        objectives: (metric, direction) of each.
    """

    study: str
    planned: int
    trials: tuple[TrialView, ...] = ()
    elapsed: float = 0.0
    resumed: int = 0
    tracking: str = ""
    message: str = ""
    trouble: str = ""
    waiting: int = 0
    objectives: tuple[tuple[str, Direction], ...] = ()

    def of(self, status: Status) -> list[TrialView]:
        """Trials that stand there."""
        return [trial for trial in self.trials if trial.status == status]

    @property
    def finished(self) -> list[TrialView]:
        """Trials that neither run nor wait."""
        return [trial for trial in self.trials if trial.status not in ("running", "waiting")]

    @property
    def share(self) -> float:
        """Of the running trials: how many trials' work is done in them."""
        return sum((trial.position / trial.total for trial in self.of("running") if trial.total), 0.0)


def remaining(snapshot: Snapshot) -> float | None:
    """Seconds to the end, from what was finished in how much time; None while too little was.

    Trials that run count with the share that they have behind them, so concurrency is in the rate.
    """
    finished, share = len(snapshot.finished), snapshot.share
    done = finished - snapshot.resumed + share
    if finished >= snapshot.planned:
        return 0.0
    if done < LEAST_PROGRESS or snapshot.elapsed <= 0:
        return None
    return max(0.0, snapshot.planned - finished - share) * snapshot.elapsed / done


def best(snapshot: Snapshot, metric: str, direction: Direction) -> TrialView | None:
    """The complete trial with the best finite value of a metric; the earliest among equals."""
    sign = -1 if direction == "maximize" else 1
    scored = [trial for trial in snapshot.of("complete") if math.isfinite(trial.metrics.get(metric, math.nan))]
    return min(scored, key=lambda trial: (sign * trial.metrics[metric], trial.number), default=None)
