"""Ray nodes as processes of their own, and fake trials that note where they run.

Also an entry point, ``python -m tests.cluster.nodes --study fake.yaml --address HOST:PORT``: ``tune.py`` with fake
trials that note on which node they run.
"""

import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.study import drive, fakes

COMMAND = ["-m", "tests.cluster.nodes", "--study", "fake.yaml"]
MARK = "LSX_TEST_NODE"
"""Names the node in the environment of all of its processes, also of those whose parent is gone."""


class Node:
    """One ``ray start --block`` and everything below it.

    Args:
        words: of the command line.
        log: where its output goes.
        environment: of its processes.
        before: words of a command that runs another, see :func:`hiding`.
    """

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str], before: Sequence[str]) -> None:
        self._mark = secrets.token_hex(8)
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*before, sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--block"],
                env={**environment, MARK: self._mark},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._log = log

    @property
    def processes(self) -> list[psutil.Process]:
        """All of the node, parents first."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return sorted(found, key=lambda one: one.pid)

    def await_start(self, seconds: float = 90) -> None:
        """Until ``ray start`` says so."""
        end = time.monotonic() + seconds
        while "Ray runtime started" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()[-2000:]
            assert time.monotonic() < end, f"no node: {self._log.read_text()[-2000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        """``kill -9`` of everything at once, as a machine that goes away."""
        while left := [one for one in self.processes if one.status() != psutil.STATUS_ZOMBIE]:
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=5)
        self._process.wait()


class Machines:
    """A Ray cluster on this machine, with a token; a context manager that leaves nothing running.

    Every node has an address of the loopback interface: the head 127.0.0.2, the others those that follow.

    Args:
        path: for logs; it exists.
        cpus: of the head.
        before: see :func:`hiding`.

    Attributes:
        address: of the head, ``host:port``.
        environment: what a driver needs to be let in.
    """

    def __init__(self, path: Path, cpus: int = 1, before: Sequence[str] = ()) -> None:
        self.path, self._cpus, self._before = path, cpus, before
        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{free.getsockname()[1]}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._nodes: list[Node] = []
        # Ray's sockets lie below it, and their paths must be short.
        self._folder = tempfile.mkdtemp(prefix="lsx-")

    def __enter__(self) -> "Machines":
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._folder}/r"]
        try:
            self._start(head, self._cpus, self._before).await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self._nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def join(self, cpus: int, before: Sequence[str] = (), **environment: str) -> Node:
        """One more node, when it has started; several at once would take each other's sockets.

        Args:
            cpus: that it has.
            before: see :func:`hiding`.
            environment: of its processes, in addition.
        """
        node = self._start([f"--address={self.address}"], cpus, before, environment)
        node.await_start()
        return node

    def _start(
        self, words: Sequence[str], cpus: int, before: Sequence[str] = (), more: Mapping[str, str] | None = None
    ) -> Node:
        host = f"127.0.0.{2 + len(self._nodes)}"
        words = [*words, f"--node-ip-address={host}", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        words = [*words, "--disable-usage-stats"]
        paths = os.pathsep.join([str(drive.ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, **self.environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **(more or {})}
        node = Node(words, self.path / f"{host}.log", environment, before)
        self._nodes.append(node)
        return node


def hiding(*folders: Path) -> list[str]:
    """Words before a command that let it see other, empty folders in place of these, as on a machine without them."""
    mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in folders)
    return ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


def can_hide(folder: Path) -> bool:
    """Whether this process may do what :func:`hiding` does."""
    try:
        return subprocess.run([*hiding(folder), "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def noting(settings: Mapping[str, str]) -> Callable[[Mapping[str, Any]], None]:
    """A fake trial (see :func:`tests.study.fakes.run_fake`) with an environment of the driver's, not of its node's.

    Beside its starts stands ``nodes-<number>.txt``: the ids of the nodes on which it was started. While a file ``hold``
    is there, trials that start wait.
    """

    def run(assignment: Mapping[str, Any]) -> None:
        import ray

        os.environ.update(settings)
        notes = Path(settings["FAKE_STARTS"])
        with (notes / f"nodes-{assignment['number']:04d}.txt").open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()}\n")
        while (notes / "hold").exists():
            time.sleep(0.05)
        fakes.run_fake(assignment)

    return run


def main() -> int:
    """``tune.py`` with trials that note their nodes."""
    from lsx.study import cli
    from lsx.study.running import runner

    runner.run_trial = noting({name: value for name, value in os.environ.items() if name.startswith("FAKE_")})
    Path(os.environ["FAKE_STARTS"]).mkdir(exist_ok=True)
    return cli.main()


if __name__ == "__main__":
    # By its importable name: a worker cannot find what __main__ defines.
    from tests.cluster import nodes

    sys.exit(nodes.main())
