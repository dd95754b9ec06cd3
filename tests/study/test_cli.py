"""A user's mistakes at ``tune.py``: one line on stderr, status 2, before anything starts."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lsx.study import cli
from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from lsx.study.environment.folder import StudyFolder  # noqa: E402
from tests.study.drivers import ledger  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from lsx.study.running import cluster

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
    ledger(Path("lsx-studies"), fakes.spec(seed=7))
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
    from lsx.study.running import cluster

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
        (
            "tune.py --study s --optuna-storage postgresql://me:secret@host/db --dry-run",
            "python tune.py --study s --optuna-storage 'postgresql://***@host/db'",
        ),
    ],
)
def test_the_line_that_extends_a_study_keeps_its_other_flags(
    argv: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *shlex.split(argv)])
    assert cli._command(without=(*cli.ONCE, "--trials")) == command


def test_flags_stand_for_settings() -> None:
    args = cli._parser().parse_args(
        ["--study", "s", "--set", "a=1", "--repeats", "3", "--sampler", "grid", "--seed", "0"]
    )
    assert cli.overrides(args) == ["a=1", "repeats=3", "sampler.type=grid", "study.seed=0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time-budget", "soon"], "time budget: 'soon' is no duration above 0, such as 45s"),
        (["--set", "loss.lambda=3"], "unknown setting 'loss.lambda'"),
        (["--sampler", "tpes"], "tpes"),
        (["--storage", "s4://bucket/x"], "storage 's4://bucket/x' cannot be used"),
        (["--optuna-storage", "trials.db"], "it is no URL of a database"),
        (["--tracking-uri", "sqlite://"], "kept in memory"),
    ],
)
def test_values_that_cannot_be_used(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert message in mistake(capsys, "--study", "fake.yaml", *flags)


def told(capsys: pytest.CaptureFixture[str], **known: Any) -> tuple[int, list[str]]:
    from rich.console import Console

    from lsx.study.running.runner import StudyResult

    content = {"folder": Path("f"), "tracking_uri": "sqlite:///m.db", "finished": 3, "planned": 6, "started": 2}
    status = cli._tell(StudyResult(**{**content, "report": "THE REPORT", **known}), "fake", Console())
    return status, capsys.readouterr().out.splitlines()


def test_every_end_of_a_run_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "tune.py", "--study", "fake", "--fresh"])
    assert told(capsys, status="complete") == (0, ["THE REPORT"])
    status, lines = told(capsys, status="complete", started=0, finished=6)
    assert (status, lines) == (
        0,
        ["lsx: study fake is complete: 6 of 6 trials; extend it with --trials 12", "THE REPORT"],
    )
    assert told(capsys, status="interrupted", report=None) == (
        130,
        ["lsx: interrupted after 3 of 6 trials; continue with: python tune.py --study fake"],
    )
    status, lines = told(capsys, status="time is up")
    assert status == 0 and lines[-1] == "THE REPORT"
    assert lines[0].startswith("lsx: the time budget is used after 3 of 6 trials; a larger --time-budget continues")


def test_what_a_person_should_know_comes_before(capsys: pytest.CaptureFixture[str]) -> None:
    notices = ("the study was edited since it last ran: sampler.type: tpe became grid", "[bold]not markup[/bold]")
    _, lines = told(capsys, status="complete", notices=notices, aside=Path("old"), undelivered=7)
    assert lines == [
        *(f"lsx: {line}" for line in notices),
        "lsx: the earlier study lies in old",
        "lsx: MLflow at sqlite:///m.db does not take 7 entries; they wait in f, and the same command delivers them",
        "THE REPORT",
    ]


def test_an_interruption_before_anything_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lsx.study.declared import spec

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(spec, "load", interrupted)
    assert cli.main(["--study", "fake.yaml"]) == 130
    assert capsys.readouterr().err == "lsx: interrupted\n"
