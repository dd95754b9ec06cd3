"""The MLflow side of a study: one experiment, a parent run, a child run per trial.

Only the driver writes, with one request per report where MLflow allows it.
"""

import hashlib
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted
from lsx.study.tracked import inputs, views
from lsx.study.tracked.stores import artifacts, prepare
from lsx.study.tracked.stores import default_uri as default_uri
from lsx.study.tracked.stores import refuse as refuse
from lsx.study.tracked.stores import ui_line as ui_line

PARENT = "mlflow.parentRunId"
PARAMS_A_BATCH = 100
LONGEST_PARAM = 6000
METRICS_A_BATCH = 900
TAGS_A_BATCH = 100
Ending = Literal["FINISHED", "KILLED", "FAILED"]
Row = tuple[int, int, Mapping[str, float]]
"""Time in ms since 1970, step, metrics."""
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_DEFINITE = (*_MISSING, "RESOURCE_ALREADY_EXISTS")


class Tracker:
    """Runs of one study.

    Args:
        uri: MLflow's tracking URI.
        experiment: its name.
        identity: tells this study from others of its name, on a server that others use too.
        folder: the study's folder; a run left RUNNING by an earlier driver of the same folder is an orphan.

    Attributes:
        parent: run id of the study.

    Raises:
        StudyError: no store or server there, or it refuses.
    """

    def __init__(self, uri: str, experiment: str, identity: str, folder: Path) -> None:
        self.uri = uri
        self.identity = identity
        self.parent = ""
        self._place = hashlib.sha256(f"{socket.gethostname()}:{folder}".encode()).hexdigest()[:16]
        self._study: tuple[str, Mapping[str, Any]] = ("", {})
        with explained(uri):
            prepare(uri)
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = self._find_experiment(experiment)

    def open_study(self, name: str, tags: Mapping[str, Any], keep: set[str]) -> None:
        """Open the parent run, again if it exists, and end what earlier drivers of this folder left running.

        Args:
            name: of the run.
            tags: of the run.
            keep: ids of runs that will be continued.
        """
        self._study = (name, tags)
        self.renew_study()
        with explained(self.uri):
            for run in self._search(f"attributes.status = 'RUNNING' and tags.`lsx.place` = '{self._place}'"):
                if run.info.run_id not in keep | {self.parent}:
                    self._client.set_terminated(run.info.run_id, "KILLED")

    def renew_study(self) -> None:
        """Open the parent run; a new one when a person has deleted it, which takes over its children."""
        name, tags = self._study
        with explained(self.uri):
            fixed = {"lsx.study": self.identity, "lsx.role": "study"}
            known = next((run.info.run_id for run in self._search(_with(fixed))), None)
            fixed |= {"lsx.place": self._place, **{key: str(value) for key, value in tags.items()}}
            self.parent = self._open_run(name, known, fixed)
            if self.parent == known:
                return
            for run in self._search(_with({"lsx.study": self.identity})):
                if run.data.tags.get(PARENT, self.parent) != self.parent:
                    self._client.set_tag(run.info.run_id, PARENT, self.parent)

    def open_trial(
        self,
        number: int,
        name: str,
        run_id: str | None,
        tags: Mapping[str, Any],
        start: int | None = None,
    ) -> str:
        """Open the child run of a trial, again if it exists; returns its id.

        Args:
            number: of the trial; a run whose id is not known is found by it.
            name: of the run.
            run_id: the run to continue, if it is known and there.
            tags: of the run.
            start: when it began, in ms since 1970, if the run is made; now by default.
        """
        with explained(self.uri):
            fixed = {PARENT: self.parent, "lsx.study": self.identity, "lsx.trial": str(number)}
            fixed |= {"lsx.place": self._place, "lsx.status": "running"}
            fixed |= {key: str(value) for key, value in tags.items()}
            known = run_id if run_id is not None and self.exists(run_id) else None
            return self._open_run(name, known or self._find_trial(number), fixed, start)

    def describe(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log the parameters of a run."""
        entries = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in params.items()]
        with explained(self.uri):
            for first in range(0, len(entries), PARAMS_A_BATCH):
                self._client.log_batch(run_id, params=entries[first : first + PARAMS_A_BATCH])

    def log(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int = 0,
        tags: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Metrics at a step, and tags, in one request; ``timestamp`` in ms since 1970, now by default."""
        self.log_rows(run_id, [(timestamp or _now(), step, metrics)], tags or {})

    def log_rows(self, run_id: str, rows: Sequence[Row], tags: Mapping[str, Any]) -> None:
        """Metrics of several steps, and tags, in as few requests as MLflow allows; said twice, it counts once."""
        entries = [Metric(key, float(value), at, step) for at, step, row in rows for key, value in row.items()]
        labels = [RunTag(key, str(value)) for key, value in tags.items()]
        with explained(self.uri):
            while entries or labels:
                self._client.log_batch(run_id, metrics=entries[:METRICS_A_BATCH], tags=labels[:TAGS_A_BATCH])
                entries, labels = entries[METRICS_A_BATCH:], labels[TAGS_A_BATCH:]

    def log_inputs(self, run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """Data that a run used, as :func:`lsx.study.tracked.inputs.describe` says it; said twice, it counts once."""
        with explained(self.uri):
            self._client.log_inputs(run_id, inputs.entities(datasets))

    def describe_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment; see :func:`lsx.study.tracked.views.changes`."""
        with explained(self.uri):
            known = self._client.get_experiment(self._experiment).tags
            for key, value in views.changes(known, tags, self._experiment).items():
                self._client.set_experiment_tag(self._experiment, key, value)

    def attach(self, run_id: str, path: str | Path, folder: str | None = None) -> None:
        """Log a file as an artifact; a file that is not there is left out."""
        if Path(path).is_file():
            with explained(self.uri):
                self._client.log_artifact(run_id, str(path), folder)

    def end(self, run_id: str, ending: Ending, timestamp: int | None = None) -> None:
        """Set a run's final state, as of ``timestamp`` (ms since 1970), now by default."""
        with explained(self.uri):
            self._client.set_terminated(run_id, ending, timestamp)

    def exists(self, run_id: str) -> bool:
        """Whether the store has the run, and nobody has deleted it."""
        with explained(self.uri):
            try:
                run = self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in _MISSING:
                    return False
                raise
            return bool(run.info.lifecycle_stage == "active")

    def touch(self) -> None:
        """Write something small: raises unless the store takes writes."""
        with explained(self.uri):
            self._client.set_tag(self.parent, "lsx.seen", str(_now()))

    def discard_doubles(self, number: int, run_id: str) -> None:
        """Delete empty runs of a trial beside its own: a server may carry out what it was too slow to confirm."""
        with explained(self.uri):
            for run in self._search(_with({"lsx.study": self.identity, "lsx.trial": str(number)})):
                if run.info.run_id != run_id and not run.data.metrics and not run.data.params:
                    self._client.delete_run(run.info.run_id)

    def _find_trial(self, number: int) -> str | None:
        """The run with that trial's tags; of several, the one that has been written to."""
        found = self._search(_with({"lsx.study": self.identity, "lsx.trial": str(number)}))
        if not found:
            return None
        best: str = max(found, key=lambda run: len(run.data.metrics) + len(run.data.params)).info.run_id
        if len(found) > 1:
            self.discard_doubles(number, best)
        return best

    def _open_run(self, name: str, run_id: str | None, tags: dict[str, str], start: int | None = None) -> str:
        if run_id is not None:
            try:
                self._client.update_run(run_id, status="RUNNING", name=name)
                self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
                return run_id
            except MlflowException as error:  # another store than before, or a run that a person deleted
                if error.error_code not in _MISSING:
                    raise
        try:
            run = self._client.create_run(self._experiment, start_time=start, run_name=name, tags=tags)
        except MlflowException as error:
            if error.error_code in _MISSING:
                self._refuse_deleted(self._client.get_experiment(self._experiment))
            raise
        identity: str = run.info.run_id
        return identity

    def _search(self, condition: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], condition, ViewType.ACTIVE_ONLY, 1000, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            identity: str = self._client.create_experiment(name, artifact_location=artifacts(self.uri, name))
            return identity
        self._refuse_deleted(found)
        identity = found.experiment_id
        return identity

    def _refuse_deleted(self, experiment: Any) -> None:
        if experiment.lifecycle_stage != "active":
            raise StudyError(
                f"experiment {experiment.name!r} was deleted in {redacted(self.uri)}; restore it with "
                f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or rename the study"
            )


def definite(error: BaseException) -> bool:
    """Whether it is a refusal by MLflow that no repetition mends: a bad value, or a run that is not there."""
    cause = error.__cause__ or error
    return isinstance(cause, MlflowException) and cause.error_code in _DEFINITE


def _with(tags: Mapping[str, str]) -> str:
    """MLflow's condition for runs with these tags."""
    return " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Whatever a store or server raises, as one line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # requests, SQLAlchemy and MLflow raise dozens of types here
        # Redacted before it is cut, since half an address would not be seen for one.
        reason = redacted(" ".join(str(error).split()).partition(" [SQL: ")[0])[:300] or type(error).__name__
        if "BadStatusLine" in reason or re.search(r"failed with error code (404|405|501)\b", reason):
            reason = "what answers there is no MLflow server; is its port taken by something else?"
        elif "Max retries exceeded" in reason or "timeout exception" in reason:
            reason = "no server answers there"
        raise StudyError(f"MLflow at {redacted(uri)!r} cannot be used: {reason}") from error
