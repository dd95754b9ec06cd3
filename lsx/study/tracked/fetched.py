"""What is got back from MLflow: a run's finished learner."""

import os
import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted
from lsx.study.environment.places import learner_file
from lsx.study.tracked.stores import refuse
from lsx.study.tracked.tracking import definite, explained


def learner(run_id: str, uri: str, folder: str | Path) -> Path:
    """Download a run's checkpoint, which :func:`lsx.training.checkpoint.load` reads without running anything in it.

    Args:
        run_id: of a trial that was on its study's front.
        uri: MLflow's tracking URI.
        folder: where to put it, in a folder called after the run.

    Raises:
        StudyError: no such store, run or checkpoint.
    """
    _refuse_missing(uri)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # for one small file
    with explained(uri):
        client, name = MlflowClient(tracking_uri=uri), learner_file(0)
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if definite(error):
                raise StudyError(f"--run-id {run_id!r} is no run in {redacted(uri)}") from None
            raise
        there = [one.path for one in client.list_artifacts(run_id)]
        if name not in there:
            raise StudyError(
                f"--run-id {run_id!r} ({run.info.run_name}) has no {name}: runs of a study's front have one, and this "
                f"one has {', '.join(there) or 'no files'}"
            )
        title = re.sub(r"[^\w.=-]+", "-", run.info.run_name or run_id).strip(".-") or run_id
        place = Path(folder) / title
        place.mkdir(parents=True, exist_ok=True)
        return Path(client.download_artifacts(run_id, name, str(place)))


def _refuse_missing(uri: str) -> None:
    """A SQLite file that is not there would be made, empty."""
    refuse(uri)
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and not Path(path).is_file():
        raise StudyError(f"MLflow at {uri!r} cannot be used: there is no such file; --tracking-uri names another")
