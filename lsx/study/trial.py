"""One trial, in a Ray worker: train, report, evaluate. Nothing here knows Optuna or MLflow."""

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from lsx import data, gallery, metrics
from lsx.config import Config
from lsx.data import Dataset
from lsx.errors import CheckpointError, LSXError
from lsx.study.folder import CHECKPOINT
from lsx.training import Report, Trainer, checkpoint

POINTS = 500  # of a stage's curves; ten thousand epochs of a hundred trials would choke a tracker
SECONDS_BETWEEN_REPORTS = 2.0

_loaded: dict[str, Dataset] = {}


def run_trial(assignment: Mapping[str, Any]) -> None:
    """Tune's trainable.

    Reports at every stage's end, at every rung of the scheduler and now and then between, with a checkpoint: the
    epoch's ``stage``, ``position``, ``total`` and ``metrics``; ``history``, the same of the epochs since the last
    report; ``guard``, at a rung only; ``picture``, whether a new one is there. At the end ``final``, the validation
    metrics, with ``reasons``, why some are NaN or leave samples out, or ``failed``, a reason that no repetition mends.

    Args:
        assignment: ``number``, ``role``, ``config`` (plain), ``guard`` (the scheduler's metric), ``rungs`` (positions),
            ``folder`` (the trial's), ``checkpoint`` (path, or None) and ``cpus``.
    """
    torch.set_num_threads(max(1, int(assignment["cpus"])))
    try:
        _run(assignment)
    except LSXError as error:
        tune.report({"failed": str(error)})


def _run(assignment: Mapping[str, Any]) -> None:
    config = Config.build(assignment["config"]).replace({"device": _device(assignment["config"]["device"])})
    dataset = _load(config)
    reporter = _Reporter(config, dataset, assignment)
    trainer = _trainer(config, dataset, reporter, assignment["checkpoint"])
    learner = trainer.run()
    found = metrics.evaluate_with_reasons(learner, dataset, "validation", config)
    final = {name: float(value) for name, value in found.values.items()}
    tune.report({"final": final, "reasons": dict(found.reasons)})


class _Reporter:
    """The trainer's callback: pictures, checkpoints, reports."""

    def __init__(self, config: Config, dataset: Dataset, assignment: Mapping[str, Any]) -> None:
        self._config = config
        self._dataset = dataset
        self._guard, self._rungs = assignment["guard"], frozenset(assignment["rungs"])
        self._folder = Path(assignment["folder"])
        self._start = self._sent = time.monotonic()
        self._history: list[dict[str, Any]] = []

    def __call__(self, report: Report) -> None:
        if report.ends_stage:
            gallery.draw(report.learner, report.stage, self._config, self._dataset, self._folder)
        if report.ends_stage or report.epoch % math.ceil(report.epochs / POINTS) == 0:
            metrics = {**report.metrics, "seconds": report.seconds}
            self._history.append({"stage": report.stage, "position": report.position, "metrics": metrics})
        if report.ends_stage or report.position in self._rungs or self._due():
            self._send(report)

    def _due(self) -> bool:
        """Ever more rarely, so that a trial of a day reports a few hundred times; a loss of 1 % when it is killed."""
        now = time.monotonic()
        return now - self._sent >= max(SECONDS_BETWEEN_REPORTS, 0.01 * (now - self._start))

    def _send(self, report: Report) -> None:
        message = {
            "stage": report.stage,
            "position": report.position,
            "total": report.total,
            "metrics": dict(report.metrics),
            "history": self._history,
            "guard": report.metrics.get(self._guard) if report.position in self._rungs else None,
            "picture": report.ends_stage,
        }
        with tempfile.TemporaryDirectory(prefix="lsx-") as folder:
            checkpoint.save(report.checkpoint(), Path(folder) / CHECKPOINT)
            tune.report(message, checkpoint=tune.Checkpoint.from_directory(folder))
        self._history, self._sent = [], time.monotonic()


def _trainer(config: Config, dataset: Dataset, callback: _Reporter, path: str | None) -> Trainer:
    """A trainer from the newest checkpoint; a damaged one costs time only, since training is deterministic."""
    state = None
    with contextlib.suppress(CheckpointError):
        state = _state(path)
    if state is None:
        return Trainer(config, dataset, callback)
    # The device may be another one than before; all other settings are sealed.
    state["config"]["device"] = config.device
    return Trainer.resume(state, dataset, callback)


def _state(path: str | None) -> dict[str, Any] | None:
    """Tune's own checkpoint after a crash of the worker, else the one that was assigned."""
    newest = tune.get_checkpoint()
    if newest is None:
        return None if path is None else checkpoint.load(path)
    with newest.as_directory() as folder:
        return checkpoint.load(Path(folder) / CHECKPOINT)


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"


def _load(config: Config) -> Dataset:
    """The dataset, kept by the worker from trial to trial; training does not write to it."""
    critic = config.critic
    parts = (
        config.data,
        config.confounder,
        config.uses_critic,
        critic.batches,
        critic.batch_size,
        critic.images,
        critic.set,
        config.device,
    )
    key = repr(parts)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = data.load(config).to(config.device)
    return _loaded[key]
