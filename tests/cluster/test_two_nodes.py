"""Whole studies on a Ray cluster of several nodes, each a `ray start` of its own, with MLflow behind HTTP.

Nodes come, go and are killed. What they must not see is hidden from them where the system lets us.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lsx import __version__
from lsx.errors import StudyError
from lsx.study.environment import quiet
from tests.cluster.nodes import COMMAND, Machines, can_hide, hiding
from tests.data.conftest import idx_bytes
from tests.study import drive, fakes
from tests.study.servers import Server

quiet.prepare()


from lsx.study.environment.places import Storage  # noqa: E402
from lsx.study.running import cluster  # noqa: E402
from lsx.study.running.inspection import Inspection  # noqa: E402

quiet.hush()

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


class Study:
    """A study of fake trials on a cluster.

    Args:
        path: working folder; it exists.
        machines: the cluster.
        uri: of MLflow.
        storage: of checkpoints.
        changes: of the study.
    """

    def __init__(self, path: Path, machines: Machines, uri: str, storage: str, **changes: Any) -> None:
        self.path, self.folder, self.starts = path, path / "lsx-studies" / path.name, path / "starts"
        self.starts.mkdir()
        content = {**fakes.CONTENT, "name": path.name, "sampler": {"type": "random"}, **changes}
        (path / "fake.yaml").write_text(yaml.safe_dump(content))
        self._command = [*COMMAND, "--address", machines.address, "--tracking-uri", uri, "--storage", storage]
        self._environment = machines.environment

    def start(self, seconds: float) -> subprocess.Popen[str]:
        """A driver; trials take as many seconds for an epoch."""
        more = {"FAKE_SECONDS": str(seconds), "FAKE_STARTS": str(self.starts)}
        return drive.start(self._command, self.path, **self._environment, **more)

    def end(self, driver: subprocess.Popen[str], status: int = 0) -> None:
        """Wait for it."""
        assert driver.wait(300) == status, self.errors or self.output
        assert status or self.errors == ""

    @property
    def output(self) -> str:
        return (self.path / "stdout.txt").read_text()

    @property
    def errors(self) -> str:
        return (self.path / "stderr.txt").read_text()

    def trials(self) -> list[Any]:
        """Optuna's."""
        if not (self.folder / "journal.log").exists():
            return []
        try:
            return drive.trials(self.folder)
        except KeyError:  # the driver has made the file, and not yet the study in it
            return []

    def running(self) -> list[int]:
        return [trial.number for trial in self.trials() if trial.state.name == "RUNNING"]

    def begun(self, number: int) -> list[int]:
        """From which epoch, at each start."""
        return [int(word) for word in self._noted(f"{number:04d}.txt")]

    def nodes(self, number: int) -> list[str]:
        """On which, at each start."""
        return self._noted(f"nodes-{number:04d}.txt")

    def _noted(self, name: str) -> list[str]:
        file = self.starts / name
        return file.read_text().split() if file.exists() else []

    def hold(self) -> None:
        """Let trials that start wait until :meth:`release`."""
        (self.starts / "hold").touch()

    def release(self) -> None:
        (self.starts / "hold").unlink()

    def started_on(self, node: str) -> list[int]:
        """Trials whose latest start was on a node."""
        return [trial.number for trial in self.trials() if self.nodes(trial.number)[-1:] == [node]]

    def kept_on(self, node: str) -> list[int]:
        """Running trials that have a checkpoint, and run on a node."""
        trials = [self.trials()[number] for number in self.running()]
        kept = {trial.number for trial in trials if "checkpoint" in trial.user_attrs}
        return sorted(kept & {*self.started_on(node)})

    def check(self, server: Server, planned: int) -> None:
        """What must hold at the end, whatever became of the nodes."""
        found = self.trials()
        assert [trial.state.name for trial in found] == ["COMPLETE"] * planned
        assert {trial.user_attrs["attempts"] for trial in found} == {1}
        client, parents, runs = drive.runs(server.database, self.path.name)
        assert [one.info.status for one in parents] == ["FINISHED"]
        assert sorted(int(one.data.tags["lsx.trial"]) for one in runs) == list(range(planned))
        assert {one.info.status for one in runs} == {"FINISHED"}
        for one in runs:
            stages = ("pretrain", "joint", "finetune")
            steps = [m.step for stage in stages for m in client.get_metric_history(one.info.run_id, f"{stage}/loss")]
            assert steps == list(range(1, fakes.EPOCHS + 1))
        assert "raylet" not in self.output


def identities(machines: Machines) -> dict[str, str]:
    """Of living nodes, by address; asked from outside of this process, which belongs to no cluster."""
    code = "import ray, sys, json; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False); "
    code += "print(json.dumps({n['NodeManagerAddress']: n['NodeID'] for n in ray.nodes() if n['Alive']}))"
    command = ["python", "-c", code, machines.address]
    done = subprocess.run(command, env={**os.environ, **machines.environment}, capture_output=True, text=True)
    found: dict[str, str] = yaml.safe_load(done.stdout.splitlines()[-1])
    return found


def test_a_study_runs_on_both_nodes_which_see_neither_its_record_nor_its_data(tmp_path: Path, server: Server) -> None:
    work = tmp_path / "both"
    for folder in ("both", "both/lsx-studies", "shared"):
        (tmp_path / folder).mkdir()
    before = hiding(work / "lsx-studies") if can_hide(work) else []
    with Machines(tmp_path, 1, before) as machines:
        machines.join(2, before)
        storage = f"file://{tmp_path}/shared"
        study = Study(work, machines, server.uri, storage, budget={"trials": 7, "attempts": 1})
        study.hold()
        driver = study.start(0)
        small, large = (identities(machines)[address] for address in ("127.0.0.2", "127.0.0.3"))
        drive.wait_until(lambda: len(study.started_on(small)) == 1 and len(study.started_on(large)) == 2, driver)
        assert not {one.name() for one in drive.descendants(driver)} & {"raylet", "gcs_server"}
        study.release()
        study.end(driver)
    study.check(server, 7)


def test_a_node_that_is_killed_costs_no_trial_and_one_that_joins_gets_some(tmp_path: Path, server: Server) -> None:
    (tmp_path / "killed").mkdir()
    with Machines(tmp_path, 1) as machines:
        doomed = machines.join(1)
        study = Study(
            tmp_path / "killed", machines, server.uri, str(tmp_path / "shared"), budget={"trials": 9, "attempts": 1}
        )
        before = identities(machines)
        driver = study.start(1.0)
        drive.wait_until(lambda: study.kept_on(before["127.0.0.3"]), driver)
        lost = study.kept_on(before["127.0.0.3"])[0]
        doomed.kill()
        drive.wait_until(lambda: len(study.nodes(lost)) == 2, driver)
        study.hold()
        machines.join(2)
        joined = identities(machines)["127.0.0.4"]
        drive.wait_until(lambda: len(study.started_on(joined)) == 2, driver)
        study.release()
        study.end(driver)
    study.check(server, 9)
    assert study.begun(lost)[0] == 0 < study.begun(lost)[1]
    assert study.nodes(lost)[0] == before["127.0.0.3"] != study.nodes(lost)[1]


def test_trials_wait_for_a_node_and_one_that_cannot_run_them_ends_the_study(tmp_path: Path, server: Server) -> None:
    work, shared = tmp_path / "waiting", tmp_path / "shared"
    work.mkdir(), shared.mkdir()
    if not can_hide(shared):
        pytest.skip("folders cannot be hidden from a process here")
    with Machines(tmp_path, 1) as machines:
        first = machines.join(2)
        large = {"resources": {"cpus_per_trial": 2}, "budget": {"trials": 2, "attempts": 1}}
        study = Study(work, machines, server.uri, str(shared), **large)
        node = identities(machines)["127.0.0.3"]
        driver = study.start(0.5)
        drive.wait_until(lambda: study.kept_on(node), driver)
        first.kill()
        drive.wait_until(lambda: "no node has room for a trial; waiting for one that has" in study.output, driver)
        blind = machines.join(2, hiding(shared))
        study.end(driver, status=2)
        (line,) = study.errors.splitlines()
        assert line.startswith("lsx: node 127.0.0.4") and "nothing is lost: the same command continues" in line
        assert f"cannot use the checkpoint storage '{shared}/waiting" in line
        assert "what the driver wrote there is not there" in line
        blind.kill()
        machines.join(2)
        study.end(study.start(0.1))
    study.check(server, 2)
    assert study.begun(0)[0] == 0 < study.begun(0)[-1]


def test_nodes_that_cannot_run_trials_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shared", "old", "bare"):
        (tmp_path / name).mkdir()
    package = Path(drive.ROOT) / "lsx"
    (tmp_path / "old" / "lsx.py").write_text(
        f"__path__ = [{str(package)!r}]\nexec(open('{package}/__init__.py').read())\n__version__ = '0.0.1'\n"
    )
    (tmp_path / "bare" / "lsx.py").write_text("raise ModuleNotFoundError(\"No module named 'lsx'\")\n")
    storage = Storage(tmp_path / "shared")
    storage.check()
    monkeypatch.chdir(tmp_path)  # the driver's working folder comes first in its workers' path
    with Machines(tmp_path, 1) as machines:
        path = f"{drive.ROOT}:{os.environ.get('PYTHONPATH', '')}"
        for one in ("old", "bare"):
            machines.join(1, PYTHONPATH=f"{tmp_path}/{one}:{path}")
        blind = machines.join(1, hiding(tmp_path / "shared")) if can_hide(tmp_path) else None
        for name, value in machines.environment.items():
            monkeypatch.setenv(name, value)
        with cluster.started(machines.address):
            said = _said(Inspection(storage))
            line = _said(Inspection(storage, _Elsewhere()))["127.0.0.2"]
    assert "ModuleNotFoundError: No module named 'elsewhere'" in line and "installed on every node" in line
    assert "127.0.0.2" not in said  # the head can
    assert f"has lsx 0.0.1, the driver {__version__}; install the same on every node" in said["127.0.0.3"]
    assert "cannot run trials: ModuleNotFoundError: No module named 'lsx'; lsx and all" in said["127.0.0.4"]
    assert blind is None or "give --storage a folder that all nodes share" in said["127.0.0.5"]


class _Elsewhere:
    """Cannot be unpickled: its module is nowhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("elsewhere",)


def _said(inspection: Inspection) -> Mapping[str, str]:
    """What is wrong with each node."""
    inspection._ask()
    said = {}
    for answer, node in dict(inspection._asked).items():
        try:
            inspection._hear(answer)
        except StudyError as error:
            said[node["NodeManagerAddress"]] = str(error)
    return said


def test_images_that_only_the_driver_sees_train_on_the_other_node(tmp_path: Path, server: Server) -> None:
    work, digits = tmp_path / "shipped", tmp_path / "digits"
    work.mkdir(), digits.mkdir()
    random = np.random.default_rng(0)
    images, labels = random.integers(256, size=(400, 28, 28), dtype=np.uint8), np.arange(400, dtype=np.uint8) % 10
    (digits / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (digits / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    settings = {
        **{"data.source": "folder", "data.root": str(digits), "critic.batches": 1, "critic.batch_size": 20},
        **{"pretrain.epochs": 1, "joint.epochs": 1, "finetune.epochs": 1, "evaluation.encoder_epochs": 0},
    }
    content = {**fakes.CONTENT, "name": "shipped", "settings": settings, "budget": {"trials": 2, "attempts": 1}}
    (work / "real.yaml").write_text(yaml.safe_dump(content))
    before = hiding(digits) if can_hide(digits) else []
    with Machines(tmp_path, 0, before) as machines:  # a head that runs no trials
        machines.join(1, before)
        command = [str(drive.ROOT / "tune.py"), "--study", "real.yaml", "--address", machines.address]
        command += ["--tracking-uri", server.uri, "--storage", str(tmp_path / "shared")]
        driver = drive.start(command, work, **machines.environment)
        assert driver.wait(300) == 0, (work / "stderr.txt").read_text()
    trials = drive.trials(work / "lsx-studies" / "shipped")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert list((work / "lsx-studies" / "shipped").glob("trials/*/learner-0.pt"))  # of the trials on the front
