"""The MLflow side of a study: one experiment, a parent run, a child run per trial.

Only the driver writes, with one request per report where MLflow allows it.
"""

import hashlib
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from lsx.errors import StudyError

PARENT = "mlflow.parentRunId"
PARAMS_A_BATCH = 100
LONGEST_PARAM = 6000
METRICS_A_BATCH = 900
Ending = Literal["FINISHED", "KILLED", "FAILED"]


def default_uri(folder: str | Path = ".") -> str:
    """A SQLite file in the working folder."""
    return f"sqlite:///{Path(folder).absolute()}/mlflow.db"


def ui_line(uri: str) -> str:
    """What a person types or opens to look at the results."""
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


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
        with explained(uri):
            _prepare_file(uri)
            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = self._find_experiment(experiment)

    def open_study(self, name: str, tags: Mapping[str, Any], keep: set[str]) -> None:
        """Open the parent run, again if it exists, and end what earlier drivers of this folder left running.

        Args:
            name: of the run.
            tags: of the run.
            keep: ids of runs that will be continued.
        """
        with explained(self.uri):
            fixed = {"lsx.study": self.identity, "lsx.role": "study", "lsx.place": self._place}
            self.parent = self._open_run(name, self._find(fixed), fixed | {k: str(v) for k, v in tags.items()})
            for run in self._search(f"attributes.status = 'RUNNING' and tags.`lsx.place` = '{self._place}'"):
                if run.info.run_id not in keep | {self.parent}:
                    self._client.set_terminated(run.info.run_id, "KILLED")

    def open_trial(
        self,
        number: int,
        name: str,
        run_id: str | None,
        params: Mapping[str, Any],
        tags: Mapping[str, Any],
        again: bool,
    ) -> str:
        """Open the child run of a trial; returns its id.

        Args:
            number: of the trial.
            name: of the run.
            run_id: the run to continue, if it is known.
            params: flat configuration.
            tags: of the run.
            again: the trial was started before, so that its run may exist although its id was not recorded.
        """
        with explained(self.uri):
            fixed = {PARENT: self.parent, "lsx.study": self.identity, "lsx.trial": str(number)}
            known = run_id or (self._find(fixed) if again else None)
            fixed |= {"lsx.place": self._place, "lsx.status": "running"}
            run_id = self._open_run(name, known, fixed | {k: str(v) for k, v in tags.items()})
            entries = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in params.items()]
            for start in range(0, len(entries), PARAMS_A_BATCH):
                self._client.log_batch(run_id, params=entries[start : start + PARAMS_A_BATCH])
            return run_id

    def log(
        self, run_id: str, metrics: Mapping[str, float], step: int = 0, tags: Mapping[str, Any] | None = None
    ) -> None:
        """Metrics at a step, and tags, in one request."""
        now = int(time.time() * 1000)
        entries = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        labels = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
        with explained(self.uri):
            for start in range(0, max(1, len(entries)), METRICS_A_BATCH):
                self._client.log_batch(run_id, metrics=entries[start : start + METRICS_A_BATCH], tags=labels)

    def attach(self, run_id: str, path: str | Path, folder: str | None = None) -> None:
        """Log a file as an artifact; a file that is not there is left out."""
        if Path(path).is_file():
            with explained(self.uri):
                self._client.log_artifact(run_id, str(path), folder)

    def end(self, run_id: str, ending: Ending) -> None:
        """Set a run's final state."""
        with explained(self.uri):
            self._client.set_terminated(run_id, ending)

    def _open_run(self, name: str, run_id: str | None, tags: dict[str, str]) -> str:
        if run_id is not None:
            try:
                self._client.update_run(run_id, status="RUNNING", name=name)
                self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
                return run_id
            except MlflowException as error:  # another store than before, or a run that a person deleted
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
        run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        identity: str = run.info.run_id
        return identity

    def _find(self, tags: Mapping[str, str]) -> str | None:
        found = self._search(" and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items()))
        return next((run.info.run_id for run in found), None)

    def _search(self, condition: str) -> list[Any]:
        return list(self._client.search_runs([self._experiment], condition, ViewType.ACTIVE_ONLY, max_results=1000))

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            identity: str = self._client.create_experiment(name, artifact_location=_artifacts(self.uri, name))
            return identity
        if found.lifecycle_stage != "active":
            raise StudyError(
                f"experiment {name!r} was deleted in {self.uri}; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or rename the study"
            )
        identity = found.experiment_id
        return identity


def refuse(uri: str) -> None:
    """Refuse SQLite URIs that MLflow takes, and then retries for minutes or forgets.

    Raises:
        StudyError: the URI names a folder, or a store in memory.
    """
    if not uri.startswith("sqlite:"):
        return
    path = uri.removeprefix("sqlite:").removeprefix("//").removeprefix("/")
    if path in ("", ":memory:"):
        raise StudyError(
            f"MLflow at {uri!r} cannot be used: such a store is kept in memory and lost; name a file, such as "
            "sqlite:///mlflow.db"
        )
    if Path(path).is_dir():
        example = f"sqlite:///{path.rstrip('/')}/mlflow.db"
        raise StudyError(f"MLflow at {uri!r} cannot be used: that is a folder; name a file in it, such as {example}")


def _prepare_file(uri: str) -> None:
    """The folder of a SQLite file; MLflow itself makes only the file."""
    refuse(uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)


def _artifacts(uri: str, experiment: str) -> str | None:
    """Beside the database; a server decides for itself."""
    if urlparse(uri).scheme in ("http", "https"):
        return None
    base = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else Path.cwd()
    return (base.absolute() / "mlartifacts" / experiment).as_uri()


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Whatever a store or server raises, as one line."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # requests, SQLAlchemy and MLflow raise dozens of types here
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "Max retries exceeded" in reason:
            reason = "no server answers there"
        raise StudyError(f"MLflow at {uri!r} cannot be used: {reason}") from error
