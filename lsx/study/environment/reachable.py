"""Whether what a study needs is there, tried without making or changing anything; each check says what it found."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from lsx.errors import StudyError
from lsx.study.declared import declaration
from lsx.study.declared.checks import preflight
from lsx.study.declared.spec import StudySpec
from lsx.study.environment import quiet
from lsx.study.environment.credentials import redacted
from lsx.study.running import packing
from lsx.study.running.packing import Machines
from lsx.study.tracked import stores

LOCK_SECONDS = 2.0
CONNECT_SECONDS = 5


def study(spec: StudySpec) -> str:
    """Data, networks and explanations; see :func:`lsx.study.declared.checks.preflight`."""
    description = preflight(spec).get("description")
    return f"{spec.study_name}: {description}" if description else spec.study_name


def tracking(uri: str) -> str:
    """MLflow's store or server.

    Raises:
        StudyError: it cannot be used.
    """
    stores.refuse(uri)
    shown, scheme = redacted(uri), urlsplit(uri).scheme
    if uri.startswith("sqlite:"):
        return f"{shown}: {_sqlite(Path(uri.removeprefix('sqlite:///').partition('?')[0]))}"
    if scheme in ("", "file"):
        raise StudyError(f"MLflow at {shown!r} cannot be used: it keeps no runs in folders; name sqlite:///mlflow.db")
    if scheme not in ("http", "https", "databricks"):
        _connect(uri)
        return f"{shown}: the database answers"
    quiet.prepare()
    from mlflow import MlflowClient

    from lsx.study.tracked.tracking import explained

    with explained(uri):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    return f"{shown}: the server answers"


def _sqlite(path: Path) -> str:
    """What there is, without making it."""
    if not path.exists():
        _writable(path.parent)
        return "will be made"
    if not path.is_file() or _head(path) not in (b"", b"SQLite format 3\0"):
        raise StudyError(f"{str(path)!r} is no SQLite database; name a file that is one, or that is not there")
    if not os.access(path, os.W_OK):
        raise StudyError(f"SQLite database {str(path)!r} is read-only; it must be writable")
    _writable(path.parent)
    try:
        name = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(name, uri=True, timeout=LOCK_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except sqlite3.Error as error:
        raise StudyError(f"SQLite database {str(path)!r} takes no writes: {error}") from None
    return "is there, and takes writes"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def storage(root: str) -> str:
    """The folder or bucket of the checkpoints.

    Raises:
        StudyError: it cannot be used.
    """
    from lsx.study.environment.places import _opened

    files, path = _opened(root)
    if files.type_name == "local":
        nearest = _writable(Path(path))
        state = "is there" if Path(path).exists() else "will be made"
        return f"{redacted(root)}: {state}, {size(shutil.disk_usage(nearest).free)} free"
    bucket = path.partition("/")[0]
    try:
        missing = files.get_file_info(bucket).type.name == "NotFound"
    except Exception as error:  # pyarrow's clients raise many types
        raise StudyError(f"storage {redacted(root)!r} cannot be reached: {redacted(line(error))}") from None
    if missing:
        raise StudyError(f"storage {redacted(root)!r} cannot be used: there is no bucket {bucket!r}")
    return f"{redacted(root)}: the bucket is there; whether it takes writes is tried at the start"


def _writable(folder: Path) -> Path:
    """The folder, or the nearest above it that is there; refused when nothing can be made in it."""
    nearest = standing(folder)
    if not nearest.is_dir():
        raise StudyError(f"folder {str(folder)!r} cannot be made: {str(nearest)!r} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StudyError(f"folder {str(nearest)!r} is read-only; it must be writable")
    return nearest


def standing(path: Path) -> Path:
    """The path, or the nearest above it that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def optuna_storage(spec: StudySpec, journal: Path, url: str | None, trials: list[Any]) -> str:
    """What the Optuna storage has of this study; its trials are added to ``trials``."""
    shown = str(journal) if url is None else redacted(url)
    if url is None:
        _writable(journal.parent)
    elif url.startswith("sqlite:///"):
        _sqlite(Path(url.removeprefix("sqlite:///").partition("?")[0]))
    empty = not journal.exists() if url is None else not _connect(url)
    if empty:
        return f"{shown}: a new study"
    quiet.prepare()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from lsx.study.search.optunastore import _database

    try:
        opened: Any = JournalStorage(JournalFileBackend(str(journal))) if url is None else _database(url)
        study = optuna.load_study(study_name=spec.study_name, storage=opened)
    except KeyError:
        return f"{shown}: a new study"
    except Exception as error:  # every driver of a database raises its own types
        raise StudyError(f"study storage {shown!r} cannot be read: {redacted(line(error))}") from None
    before, ours = study.user_attrs.get("fingerprint"), spec.fingerprint()
    if before is not None and not declaration.compatible(before, ours):
        changes = "; ".join(declaration.difference(before, ours))
        raise StudyError(f"study {spec.study_name!r} was started with other settings: {changes}")
    trials += study.get_trials(deepcopy=False)
    return f"{shown}: continues after {sum(one.state.is_finished() for one in trials)} finished trials"


def _connect(url: str) -> bool:
    """Reach a database; whether it has Optuna's tables. None are made."""
    import sqlalchemy

    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///").partition("?")[0]).exists():
        return False  # connecting would make it
    limited = url.startswith(("postgresql", "mysql"))
    try:
        engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": CONNECT_SECONDS} if limited else {})
        with engine.connect() as connection:
            found: bool = sqlalchemy.inspect(connection).has_table("studies")
        engine.dispose()
    except Exception as error:  # a driver that is not installed, and all that drivers raise
        raise StudyError(f"database {redacted(url)!r} cannot be reached: {redacted(line(error))}") from None
    return found


def machines(spec: StudySpec, address: str | None, there: list[Machines]) -> str:
    """What trials can run on; it is added to ``there``."""
    quiet.prepare()
    found = packing.machines(address)
    there.append(found)
    cpus, asked = spec.resources.cpus_per_trial, spec.resources.gpus_per_trial
    gpus = 0.0 if asked == "auto" else asked
    if not found.slots(cpus, gpus):
        raise StudyError(f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs; no single node has both")
    where = f"{len(found.nodes)} nodes of the Ray cluster" if address else "this machine"
    return f"{where}: {found.total('CPU'):g} CPUs, {found.total('GPU'):g} GPUs"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
