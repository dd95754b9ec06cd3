"""What must not happen even when somebody wants it to: secrets shown, folders left, code run from files."""

import ast
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lsx import Config, load_data
from lsx.errors import CheckpointError, StudyError
from lsx.study.declared.spec import StudySpec, load
from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from lsx.study.environment.folder import StudyFolder  # noqa: E402
from lsx.study.environment.places import CHECKPOINT  # noqa: E402
from lsx.study.shown.archive import open_past  # noqa: E402
from lsx.study.worker import luggage  # noqa: E402
from lsx.training import load_learner  # noqa: E402
from tests.study import drive, servers  # noqa: E402

PACKAGE = Path(__file__).parents[3] / "lsx"
SECRET = "hunter2"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("name", ["../outside", "a/b", "/tmp/x", "..", ".hidden", "", "a\nb", "a b", "-rf"])
def test_no_name_leaves_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="name"):
        fakes.spec(name=name)
    with pytest.raises(StudyError, match="profile"):
        StudySpec.build({**fakes.CONTENT, "profiles": {name: {}}}, name)
    with pytest.raises(StudyError):
        open_past(tmp_path, name)
    file = tmp_path / "fake.yaml"
    file.write_text(yaml.safe_dump(fakes.CONTENT))
    with pytest.raises(StudyError, match="--set"):
        load(file, overrides=[f"name={json.dumps(name)}"])


def test_trials_stay_in_the_study(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, fakes.spec().study_name)
    assert folder.path.parent == tmp_path
    assert folder.trial(12).parent == folder.path / "trials"


@pytest.mark.parametrize("whole", [True, False], ids=["a pickle", "inside of a checkpoint"])
def test_a_checkpoint_that_others_wrote_is_not_executed(tmp_path: Path, whole: bool) -> None:
    written, trap = tmp_path / "written", tmp_path / CHECKPOINT
    if whole:
        trap.write_bytes(pickle.dumps(Bomb(written)))
    else:
        torch.save({"format": 1, "config": Bomb(written)}, trap)
    (tmp_path / "explanations.pt").write_bytes(pickle.dumps(Bomb(written)))
    found = luggage.Luggage(tmp_path)
    assert (found.state, found.done) == (None, [])
    with pytest.raises(CheckpointError):
        load_learner(trap, load_data(Config()))
    assert not written.exists()
    with pytest.raises(FileExistsError):  # the trap itself works
        written.touch()
        pickle.loads(pickle.dumps(Bomb(written)))
        written.touch(exist_ok=False)


def test_no_room_of_lsx_unpickles() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not named & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert safe.get("weights_only") == "True", f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert "allow_pickle=True" not in ast.unparse(node), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("yaml.load"):
                pytest.fail(f"{path}:{node.lineno}: YAML is read by lsx.yamlfile only")


def test_credentials_stay_with_the_person(tmp_path: Path) -> None:
    """A whole study on a server whose URI has a password, and then a look at all that was written."""
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump({**fakes.CONTENT, "budget": {"trials": 3, "attempts": 1}}))
    served = tmp_path / "served"
    served.mkdir()
    with servers.Server(served) as server:
        uri = server.uri.replace("http://", f"http://someone:{SECRET}@")
        database = f"sqlite:///{tmp_path}/trials.db"
        command = ["-m", "tests.study.fakes", "--study", "fake.yaml", "--tracking-uri", uri]
        driver = drive.start([*command, "--optuna-storage", database], tmp_path)
        assert driver.wait(180) == 0, (tmp_path / "stderr.txt").read_text()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "server.db" for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert "someone" not in (tmp_path / "stdout.txt").read_text()
    assert drive.start(command[:4], tmp_path).wait(60) == 2
    (line,) = (tmp_path / "stderr.txt").read_text().splitlines()
    assert "give --tracking-uri again, with its credentials" in line
