"""A study's folder: its paths, its lock, what it remembers of its surroundings, and its repair after a crash."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lsx.errors import StudyError

SURROUNDINGS = "surroundings.json"
OWING = b"owing"


class StudyFolder:
    """``<root>/<study name>``, held by one driver.

    Use as a context manager: the lock is held inside.

    Args:
        root: folder of all studies.
        name: the study's name.

    Attributes:
        path, journal, outbox, ray: the folder, Optuna's journal, MLflow's outbox, and Ray's files.
        owing: whether trials that were running count a start too much, because a driver could not write any more. Kept
            in the lock file, which is there already: a full disk lets nothing else be written.

    Raises:
        StudyError: on entering, when the folder cannot be made or another driver holds it.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        self.name = name
        self.path = Path(root).absolute() / name
        self.journal = self.path / "journal.log"
        self.outbox = self.path / "outbox.jsonl"
        self.ray = self.path / "ray"
        self.owing = False
        self._lock: int | None = None

    def __enter__(self) -> "StudyFolder":
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise StudyError(f"study folder {str(self.path)!r} cannot be used: {error.strerror or error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def trial(self, number: int) -> Path:
        """Folder of one trial; it exists."""
        path = self.path / "trials" / f"{number:04d}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def begun(self) -> bool:
        """Whether a study was started here."""
        return self.journal.exists() or (self.path / SURROUNDINGS).exists()

    @property
    def surroundings(self) -> Mapping[str, Any]:
        """Where the study's other parts are (``tracking_uri``, ``storage``, ``optuna_storage``), as far as noted."""
        with contextlib.suppress(OSError, ValueError):
            found: Mapping[str, Any] = json.loads((self.path / SURROUNDINGS).read_text())
            return found
        return {}

    def note_surroundings(self, **known: str | None) -> None:
        """Remember where the other parts are; whole or not at all."""
        part = self.path / f"{SURROUNDINGS}.part"
        part.write_text(json.dumps({**self.surroundings, **known}, indent=1))
        part.replace(self.path / SURROUNDINGS)

    def set_aside(self) -> Path | None:
        """Move a started study away and begin a new folder; returns where the old one lies."""
        if not self.begun:
            return None
        old = self.path.with_name(f"{self.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        while old.exists():
            old = old.with_name(f"{old.name}-")
        self.path.rename(old)
        held, self._lock = self._lock, None
        try:
            self.__enter__()
        finally:
            if held is not None:
                os.close(held)
        return old

    def repair(self) -> Path | None:
        """Undo what a driver killed in the middle of a write, or a machine that lost power, leaves behind.

        Optuna's lock file would be waited for half a minute; lines at the journal's end that are no JSON would make
        the study unreadable. They are cut off and kept in a file of their own.

        Returns:
            The file with what was cut off; None when the journal was sound.

        Raises:
            StudyError: the journal is damaged before its end, where cutting would lose trials.
        """
        for name in (f"{self.journal.name}.lock", f"{self.journal.name}.lock.rename"):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()
        if not self.journal.exists():
            return None
        content = self.journal.read_bytes()
        sound = _sound(content)
        if sound == len(content):
            return None
        if any(_is_record(line) for line in content[sound:].split(b"\n")[1:]):
            line = content[:sound].count(b"\n") + 1
            raise StudyError(
                f"study journal {str(self.journal)!r} is damaged in line {line}, with sound lines after it: repair it "
                "by hand or restore a copy; --fresh sets it aside and starts over"
            )
        kept = self.journal.with_name(f"{self.journal.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        kept.write_bytes(content[sound:])
        with self.journal.open("r+b") as file:
            file.truncate(sound)
        return kept

    def _take_lock(self) -> int:
        name = self.path / "lock"
        lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StudyError(
                f"study {self.name!r} is being run already, by {holder}; its folder is {self.path}"
            ) from None
        if not (name.exists() and os.path.samestat(os.fstat(lock), name.stat())):
            os.close(lock)  # meanwhile, another driver has set the folder aside, and the lock with it
            raise StudyError(f"study {self.name!r} is being set aside by another driver; try again")
        self.owing = os.pread(lock, len(OWING), 0) == OWING
        _overwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        return lock

    def _release(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # some disks without room take nothing at all
                _overwrite(self._lock, OWING if self.owing else b"")
            os.close(self._lock)
            self._lock = None


def _overwrite(file: int, content: bytes) -> None:
    """In place: a full disk gives nothing back that was let go."""
    os.pwrite(file, content, 0)
    os.ftruncate(file, len(content))


def _sound(content: bytes) -> int:
    """Bytes at the beginning that are whole lines of JSON objects."""
    end = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_record(line):
            break
        end += len(line)
    return end


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
