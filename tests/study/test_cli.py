"""A user's mistakes at ``tune.py``: one line on stderr, status 2, before anything starts."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lsx.study import cli, quiet
from tests.study import fakes

quiet.prepare()

from lsx.study.folder import StudyFolder  # noqa: E402
from lsx.study.ledger import Ledger  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lsx.study import cluster

    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump(fakes.CONTENT))


def mistake(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a user reads."""
    assert cli.main([*args]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lsx: ")
    assert error.count("\n") == 1
    return error


def test_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'decoy_mnist'?" in mistake(capsys, "--study", "decoy_mnits")


def test_unknown_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert "papr" in mistake(capsys, "--study", "decoy_mnist", "--profile", "papr")


def test_changed_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with StudyFolder("lsx-studies", "fake") as folder:
        Ledger(fakes.spec(seed=7), folder.journal)
    assert "seed: 7 became 0" in mistake(capsys, "--study", "fake.yaml")


def test_study_that_runs_already(capsys: pytest.CaptureFixture[str]) -> None:
    with StudyFolder("lsx-studies", "fake"):
        assert f"already, by process {os.getpid()}" in mistake(capsys, "--study", "fake.yaml")


def test_folder_that_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in mistake(capsys, "--study", "fake.yaml", "--folder", "file")


def test_tracking_server_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsx.study import cluster

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(cluster.ray, "init", lambda **_: None)
    line = mistake(capsys, "--study", "fake.yaml", "--tracking-uri", "http://127.0.0.1:9")
    assert "MLflow at 'http://127.0.0.1:9' cannot be used: no server answers there" in line


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--trials", "0", "must be at least 1"),
        ("--trials", "many", "is not a number"),
        ("--max-concurrent", "-2", "must be at least"),
        ("--gpus-per-trial", "1.5", "between 0 and 1, or a whole number"),
        ("--gpus-per-trial", "nan", "must be at least 0"),
        ("--tirals", "3", "unrecognized arguments"),
    ],
)
def test_flags(capsys: pytest.CaptureFixture[str], flag: str, value: str, message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--study", "fake.yaml", flag, value])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_script_itself(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tune.py"), "--study", "nope"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (result.returncode, result.stdout) == (2, "lsx: starting\n")
    assert result.stderr.startswith("lsx: unknown study 'nope'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ("tune.py --study s --trials 5 --folder f", "python tune.py --study s --folder f"),
        ("tune.py --trials=5 --fresh --study s", "python tune.py --study s"),
        ("tune.py --study 'my study.yaml'", "python tune.py --study 'my study.yaml'"),
    ],
)
def test_the_line_that_extends_a_study_keeps_its_other_flags(
    argv: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *shlex.split(argv)])
    assert cli._command(without=("--fresh", "--trials")) == command
