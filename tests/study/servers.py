"""A real MLflow server on this machine that can be killed, frozen and started again at the same port."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil


class Server:
    """``mlflow server`` over a SQLite file in ``folder``; a context manager that leaves nothing running.

    Args:
        folder: of the database, the artifacts and the log; it exists.

    Attributes:
        uri: where it listens, or will.
        database: its SQLite file.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, seconds: float = 120) -> "Server":
        """Start, and wait until it answers."""
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self._folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + seconds
        while not self.answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)
        return self

    def answers(self) -> bool:
        """Whether ``/health`` does."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """``kill -9`` of the server and all of its processes."""
        for process in self._processes():
            process.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It accepts connections and answers none, until :meth:`thaw`."""
        for process in self._processes():
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on, with what came in the meantime."""
        for process in self._processes():
            process.send_signal(signal.SIGCONT)

    def restart(self) -> "Server":
        """Kill it, and start it again at the same port with the same database."""
        self.kill()
        return self.start()

    def _processes(self) -> list[psutil.Process]:
        """Children last: a parent that is killed first starts none anew."""
        if self._process is None:
            return []
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
