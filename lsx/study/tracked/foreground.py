"""One run without a study in MLflow: the same metrics by the same names as a trial's."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param

from lsx.config import Config
from lsx.gallery import PICTURE
from lsx.study.tracked.tracking import LONGEST_PARAM, METRICS_A_BATCH, PARAMS_A_BATCH, Ending, Tracker, explained
from lsx.training import Report

POINTS = 500
"""Of a stage's curves, at most, so that ten thousand epochs do not choke MLflow's pages."""
LONGEST_TAG = 4000


class ForegroundRun(Tracker):
    """A callback that keeps one run in MLflow.

    Metrics are ``<stage>/<metric>`` over the epochs of the whole run and, at the end, the final ones by their names;
    parameters are the flat configuration; the picture of explanations comes after every stage. Epochs are sent by
    :meth:`saved`, when a checkpoint holds them, so that a run resumed after a crash sends none twice.

    Args:
        uri: MLflow's tracking URI.
        experiment: its name; made when it is not there.
        name: of the run.
        config: of the run.
        folder: of the run; its files become artifacts.
        run_id: the run to continue; a new one when it is None or was deleted.
        tags: of the run.

    Attributes:
        run_id: of the run.

    Raises:
        StudyError: no store or server there, or it refuses.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        name: str,
        config: Config,
        folder: Path,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(uri, experiment, "run", folder.absolute())
        self._folder = folder
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._drawn = False
        with explained(uri):
            self.run_id = self._open_run(name, run_id, {"lsx.role": "run", "lsx.place": self._place, **(tags or {})})
            if self.run_id != run_id:
                self._describe(config)

    def __call__(self, report: Report) -> None:
        """Keep one finished epoch until :meth:`saved`."""
        self._drawn |= report.ends_stage
        if report.ends_stage or report.epoch % math.ceil(report.epochs / POINTS) == 0:
            values = {**report.metrics, "seconds": report.seconds}
            row = {f"{report.stage}/{name}": float(value) for name, value in values.items()}
            self._waiting.append((report.position, row))

    def saved(self) -> None:
        """Send the epochs that were kept, in as few requests as MLflow allows."""
        now = int(time.time() * 1000)
        entries = [Metric(key, value, now, step) for step, row in self._waiting for key, value in row.items()]
        with explained(self.uri):
            for start in range(0, len(entries), METRICS_A_BATCH):
                self._client.log_batch(self.run_id, metrics=entries[start : start + METRICS_A_BATCH])
        self._waiting = []
        if self._drawn:
            self.attach(self.run_id, self._folder / PICTURE)
            self._drawn = False

    def final(self, values: Mapping[str, float], reasons: Mapping[str, str]) -> None:
        """The finished run's metrics; those that are NaN are left to the reasons, a tag."""
        tags: dict[str, Any] = {}
        if reasons:
            tags["lsx.reasons"] = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())[:LONGEST_TAG]
        self.log(self.run_id, {name: value for name, value in values.items() if math.isfinite(value)}, tags=tags)

    def close(self, ending: Ending) -> None:
        """Set the run's state and attach its files, checkpoints left out."""
        if ending == "FINISHED":
            for name in ("config.yaml", "metrics.json", PICTURE, "history.jsonl"):
                self.attach(self.run_id, self._folder / name)
        self.end(self.run_id, ending)

    def _describe(self, config: Config) -> None:
        entries = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in config.flat().items()]
        for start in range(0, len(entries), PARAMS_A_BATCH):
            self._client.log_batch(self.run_id, params=entries[start : start + PARAMS_A_BATCH])
