"""Where MLflow keeps a study: its tracking URIs."""

import os
import shlex
import sqlite3
import time
import uuid
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlparse

from lsx.errors import StudyError
from lsx.study.environment.credentials import redacted

LOCK_SECONDS = 5
SECONDS_TO_MAKE = 3600
"""After which a store that is being made counts as given up."""


def default_uri(folder: str | Path = ".") -> str:
    """A SQLite file in the working folder."""
    return f"sqlite:///{Path(folder).absolute()}/mlflow.db"


def ui_line(uri: str) -> str:
    """What a person types or opens to look at the results."""
    uri = redacted(uri)
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


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


def prepare(uri: str) -> None:
    """The folder of a SQLite file, which MLflow does not make; a file that takes no writes is refused at once.

    MLflow itself would try for minutes to open a locked one, or to make one in a folder that takes no files.

    Raises:
        StudyError: see :func:`refuse`.
        OSError, sqlite3.Error: the folder cannot be made, or the file takes no writes.
    """
    refuse(uri)
    if not uri.startswith("sqlite:///"):
        return
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        _probe(file)
    if not file.exists() or not file.stat().st_size:
        _make(file)


def _probe(file: Path) -> None:
    with closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as database:
        database.execute("BEGIN IMMEDIATE")  # SQLite lets a file that is read-only pass here
        database.execute("CREATE TABLE lsx_probe (x)")
        database.rollback()


def _make(file: Path) -> None:
    """MLflow's tables, all or none: MLflow cannot go on with those of a maker that was killed, or that has company."""
    from mlflow import MlflowClient

    for part in file.parent.glob(f"{file.name}.part-*"):
        if time.time() - part.stat().st_mtime > SECONDS_TO_MAKE:
            part.unlink(missing_ok=True)
    part = file.with_name(f"{file.name}.part-{uuid.uuid4().hex}")
    try:
        with closing(sqlite3.connect(part)) as database:  # MLflow would try for minutes
            database.execute("CREATE TABLE lsx_probe (x)")
            database.execute("DROP TABLE lsx_probe")
        MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments(max_results=1)
        if file.exists() and not file.stat().st_size:
            part.replace(file)
        else:
            with suppress(FileExistsError):  # another study was faster
                os.link(part, file)
    finally:
        with suppress(OSError):  # of a disk that takes no writes, which has raised above
            part.unlink()


def artifacts(uri: str, experiment: str) -> str | None:
    """The URI of the artifacts' folder: beside the database; None for a server, which decides for itself."""
    if urlparse(uri).scheme in ("http", "https"):
        return None
    base = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else Path.cwd()
    return (base.absolute() / "mlartifacts" / experiment).as_uri()
