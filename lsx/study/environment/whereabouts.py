"""Where the parts of a study are: said now, said when it was last run, or the default."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lsx.errors import StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment.credentials import redacted
from lsx.study.environment.folder import StudyFolder
from lsx.study.tracked.stores import default_uri, refuse


@dataclass(frozen=True)
class Whereabouts:
    """Of a study.

    Attributes:
        tracking_uri: of MLflow.
        storage: folder or URI of the checkpoints of all studies; None: the study's folder.
        optuna_storage: URL of a database; None: a journal in the study's folder.
    """

    tracking_uri: str
    storage: str | None = None
    optuna_storage: str | None = None


def find(
    place: StudyFolder,
    *,
    tracking_uri: str | None = None,
    storage: str | None = None,
    optuna_storage: str | None = None,
    fresh: bool = False,
) -> Whereabouts:
    """What is said now, else what the study's folder remembers (unless it starts afresh), else the default.

    Raises:
        StudyError: what is remembered had credentials, which are not kept; or the file of the remembered database is
            gone; or MLflow cannot use the URI.
    """
    known = {} if fresh else place.surroundings
    around = os.environ.get("MLFLOW_TRACKING_URI")
    if around is not None and known.get("tracking_uri") == redacted(around):
        tracking_uri = tracking_uri or around  # with its credentials, which are not remembered
    uri = tracking_uri or _remembered(known, "tracking_uri") or around or default_uri()
    refuse(uri)
    return Whereabouts(
        uri, storage or _remembered(known, "storage"), optuna_storage or _remembered(known, "optuna_storage")
    )


def equipped(
    spec: StudySpec,
    *,
    max_concurrent: int | None = None,
    gpus_per_trial: float | Literal["auto"] | None = None,
    trials: int | None = None,
) -> StudySpec:
    """The study with other resources or another budget, where they are given."""
    changes: dict[str, Any] = {"max_concurrent": max_concurrent, "gpus_per_trial": gpus_per_trial}
    resources = spec.resources.model_copy(update={key: value for key, value in changes.items() if value is not None})
    budget = spec.budget if trials is None else spec.budget.model_copy(update={"trials": trials})
    return spec.model_copy(update={"resources": resources, "budget": budget})


def _remembered(known: Mapping[str, Any], name: str) -> str | None:
    value: str | None = known.get(name)
    if value is None:
        return None
    if "***" in value:
        flag = f"--{name.replace('_', '-')}"
        raise StudyError(f"the study's {name.replace('_', ' ')} is {value!r}; give {flag} again, with its credentials")
    if value.startswith("sqlite:///") and not Path(value.removeprefix("sqlite:///").partition("?")[0]).exists():
        if name == "optuna_storage":  # its trials are the study: without them, it would start over unasked
            raise StudyError(
                f"the study's database {value!r} is not there; give --optuna-storage with its place, or --fresh"
            )
        return None  # everything was moved together
    return value
