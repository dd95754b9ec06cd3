"""A study's folder: its paths, its lock, and its repair after a driver was killed."""

import contextlib
import fcntl
import os
import shutil
import socket
import time
from pathlib import Path

from lsx.errors import StudyError

CHECKPOINT = "checkpoint.pt"
PICTURE = "explanations.png"


class StudyFolder:
    """``<root>/<study name>``, held by one driver.

    Use as a context manager: the lock is held inside.

    Args:
        root: folder of all studies.
        name: the study's name.

    Raises:
        StudyError: on entering, when the folder cannot be made or another driver holds it.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        self.name = name
        self.path = Path(root).absolute() / name
        self.journal = self.path / "journal.log"
        self.ray = self.path / "ray"
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

    def relative(self, path: str | Path) -> str:
        """A path below this folder, such that the folder can be moved."""
        return os.path.relpath(Path(path).absolute(), self.path)

    def set_aside(self) -> Path | None:
        """Move a started study away and begin a new folder; returns where the old one lies."""
        if not self.journal.exists():
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

    def repair(self) -> None:
        """Undo what a driver killed in the middle of a write leaves behind.

        Optuna's lock file would be waited for half a minute; a line of the journal without its end would make the
        next one unreadable, and was never acknowledged. Both are safe to remove: this process holds the lock.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.journal}.lock")
        if not self.journal.exists():
            return
        with self.journal.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)

    def discard_scratch(self) -> None:
        """Delete Ray's files; checkpoints that matter lie in the trials' folders."""
        shutil.rmtree(self.ray, ignore_errors=True)

    def _take_lock(self) -> int:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StudyError(
                f"study {self.name!r} is being run already, by {holder}; its folder is {self.path}"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return lock

    def _release(self) -> None:
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None
