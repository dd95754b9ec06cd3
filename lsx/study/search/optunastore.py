"""The Optuna storage of a study: a journal in its folder, or a database that several machines and a dashboard reach."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import psutil
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation

from lsx.errors import StudyError
from lsx.study.declared.spec import StudySpec
from lsx.study.environment.credentials import redacted
from lsx.study.search.patience import patience

PATIENCE = 60.0
"""Seconds for which a database that is locked or away is asked again, before the study stops; LSX_STORAGE_PATIENCE."""
BEAT = 15.0
STALE = 60.0
"""Seconds after its last beat at which a driver on another machine counts as gone."""


def open_study(spec: StudySpec, journal: Path, url: str | None = None) -> optuna.Study:
    """The study in its storage, made when it is not there.

    Args:
        spec: name and objectives.
        journal: path of the journal file.
        url: of a database instead, such as ``postgresql://host/name`` or ``sqlite:///file.db``.

    Raises:
        StudyError: the storage cannot be opened.
    """
    shown = str(journal) if url is None else redacted(url)
    try:
        backend = JournalStorage(JournalFileBackend(str(journal))) if url is None else _database(url)
        known: Any = optuna.storages.get_storage(backend)
        storage: Any = Patient(known, shown, _patience() if url else 0.0)
        with contextlib.suppress(KeyError):  # create_study would write to the journal, also if the study exists
            return optuna.load_study(study_name=spec.study_name, storage=storage)
        directions = [objective.direction for objective in spec.objectives]
        return optuna.create_study(
            storage=storage, study_name=spec.study_name, directions=directions, load_if_exists=True
        )
    except StudyError:
        raise
    except Exception as error:  # every driver of a database raises its own types
        advice = "; --fresh sets it aside and starts over" if url is None else ""
        raise StudyError(f"study storage {shown!r} cannot be used: {_reason(error)}{advice}") from None


def load_study(name: str, journal: Path, url: str | None = None) -> optuna.Study:
    """A study that was started, to be looked at, also while a driver runs it.

    Raises:
        StudyError: it was not, or its storage cannot be read.
    """
    if url is None and not journal.is_file():
        raise StudyError(f"study {name!r} has no trials yet: there is no {str(journal)!r}")
    shown = str(journal) if url is None else redacted(url)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal))) if url is None else _database(url, make=False)
        return optuna.load_study(study_name=name, storage=storage)
    except Exception as error:
        raise StudyError(f"study storage {shown!r} cannot be read: {_reason(error)}") from None


def refuse_running(url: str, name: str) -> None:
    """Refuse to touch a study in a database while a driver runs it, maybe on another machine.

    Raises:
        StudyError: one does, or the database cannot be used.
    """
    try:
        storage = _database(url)
        known = name in optuna.get_all_study_names(storage)
        study = optuna.load_study(study_name=name, storage=storage) if known else None
    except Exception as error:
        raise StudyError(f"study storage {redacted(url)!r} cannot be used: {_reason(error)}") from None
    if study is not None:
        Lease(study).refuse_second()


def set_aside(url: str, name: str) -> str | None:
    """Give a study in a database another name, so that its own is free; returns the new one."""
    try:
        storage = _database(url)
        if name not in optuna.get_all_study_names(storage):
            return None
        aside = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=storage, to_study_name=aside)
        optuna.delete_study(study_name=name, storage=storage)
    except Exception as error:
        raise StudyError(f"study storage {redacted(url)!r} cannot be used: {_reason(error)}") from None
    return aside


class GoneError(StudyError):
    """Somebody has deleted the study from its storage."""


class Patient:
    """A storage that is asked again while it is locked or away, and no more after it was given up.

    A journal is not asked again: half a line may stand at its end, and a second one would make it unreadable.

    Args:
        storage: any Optuna storage.
        shown: what it is called in messages.
        patience: seconds.
    """

    def __init__(self, storage: Any, shown: str, patience: float) -> None:
        self._storage, self._shown, self._patience = storage, shown, patience
        self._given_up: StudyError | None = None

    def set_trial_user_attrs(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        """Set several at once: a journal is synced to its disk once for all of them."""
        self._asking(self._set_all)(trial_id, attributes)

    def _set_all(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        storage = self._storage
        if not isinstance(storage, JournalStorage):
            for name, value in attributes.items():
                storage.set_trial_user_attr(trial_id, name, value)
            return
        entries = [{"trial_id": trial_id, "user_attr": {name: value}} for name, value in attributes.items()]
        with storage._thread_lock:
            origin = {"op_code": JournalOperation.SET_TRIAL_USER_ATTR, "worker_id": storage._replay_result.worker_id}
            storage._backend.append_logs([origin | entry for entry in entries])
            storage._sync_with_backend()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        return self._asking(found) if callable(found) else found

    def _asking(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if self._given_up is not None:
                raise type(self._given_up)(str(self._given_up))
            end, pause = time.monotonic() + self._patience, 0.2
            while True:
                try:
                    return call(*args, **kwargs)
                except (StorageInternalError, sqlalchemy.exc.OperationalError, OSError) as error:
                    if time.monotonic() >= end:
                        raise self._give_up(_reason(error)) from error
                    time.sleep(pause)
                    pause = min(2 * pause, 5.0)
                except KeyError as error:
                    if call.__name__ == "get_study_id_from_name":
                        raise
                    raise self._give_up("the study is not there any more", GoneError) from error

        return asked

    def _give_up(self, reason: str, kind: type[StudyError] = StudyError) -> StudyError:
        self._given_up = kind(f"study storage {self._shown!r} cannot be used: {reason}")
        return self._given_up


class Lease:
    """Says in the study itself who runs it: a lock file does not reach to other machines.

    Use as a context manager.

    Args:
        study: in a database.

    Raises:
        StudyError: on entering, when another driver runs the study.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._token = uuid.uuid4().hex
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lsx-lease", daemon=True)

    def __enter__(self) -> "Lease":
        self.refuse_second()
        self._write()
        time.sleep(0.2)
        if self._study.user_attrs.get("driver", {}).get("token") != self._token:  # another one came between
            self.refuse_second()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)
        with contextlib.suppress(StudyError):
            self._study.set_user_attr("driver", {})

    def refuse_second(self) -> None:
        """Raises StudyError when another driver runs the study."""
        holder = self._study.user_attrs.get("driver", {})
        if holder and holder.get("token") != self._token and _alive(holder):
            raise StudyError(
                f"study {self._study.study_name!r} is being run already, by process {holder['process']} on "
                f"{holder['host']}"
            )

    def _write(self) -> None:
        place = {"host": socket.gethostname(), "process": os.getpid(), "began": psutil.Process().create_time()}
        self._study.set_user_attr("driver", {**place, "token": self._token, "beat": time.time()})

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(Exception):  # the driver itself meets the fault, and says so
                self._write()


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return bool(time.time() - holder["beat"] < STALE)
    try:
        return bool(abs(psutil.Process(holder["process"]).create_time() - holder["began"]) < 1)
    except psutil.Error:  # no such process
        return False


def _database(url: str, make: bool = True) -> RDBStorage:
    if "://" not in url:
        raise ValueError("it is no URL of a database, such as postgresql://host/name or sqlite:///studies.db")
    file = url.removeprefix("sqlite:///").partition("?")[0]
    if not make and url.startswith("sqlite:///") and not Path(file).exists():
        raise ValueError("its file is not there")
    timeout = {"connect_args": {"timeout": min(10.0, _patience() / 4)}} if url.startswith("sqlite") else {}
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **timeout})


def _patience() -> float:
    return patience("LSX_STORAGE_PATIENCE", PATIENCE)


def _reason(error: BaseException) -> str:
    """The words of the lowest cause that has some, without the SQL around them."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return redacted(" ".join(str(error).split())[:300]) or type(error).__name__
