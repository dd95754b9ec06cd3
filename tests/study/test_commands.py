"""``tune.py list | show | best | rerun | report``: what they say, write and refuse."""

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from lsx.config import Config
from lsx.errors import StudyError
from lsx.study import cli
from lsx.study.environment import quiet
from tests.study import fakes

quiet.prepare()

from lsx.study import commands  # noqa: E402
from lsx.study.shown import results  # noqa: E402
from tests.study.drivers import declare, driver, ledger  # noqa: E402
from tests.study.shown.test_archive import past  # noqa: E402


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


STUDIES = Path("lsx-studies")


def said(*words: str, status: int = 0) -> str:
    """What a command prints, its spaces as one."""
    console = Console(file=io.StringIO(), width=160, color_system=None)
    assert commands.main(words, console) == status
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_list_names_what_was_run_and_what_can_be(tmp_path: Path) -> None:
    assert "no study was run in lsx-studies" in said("list")
    past(STUDIES)
    broken = STUDIES / "broken"
    broken.mkdir()
    (broken / "study.yaml").write_text("objectives: [")
    text = said("list")
    assert "fake 4 2 complete, 1 fail, 1 running 75 s" in text
    assert "broken unreadable: " in text and "broken/study.yaml:1: " in text
    assert "can be run: " in text and "decoy_mnist" in text


def test_show_says_where_a_study_stands() -> None:
    recorder = past(STUDIES, question="does\n  it learn?")
    recorder.folder.note_surroundings(tracking_uri="http://***@host", storage=None)
    ledger(STUDIES, fakes.spec(sampler={"type": "random"}, question="does it learn?"))
    text = said("show", "--study", "fake")
    assert text.startswith("does it learn? 2 complete, 1 fail, 1 running; ran for 75 s, last change ")
    assert "after 4 trials: sampler.startup_trials: 3 became 10; sampler.type: tpe became random" in text
    assert "RuntimeError: [red]boom[/red]" in text  # no markup
    assert "1 published: input_x_gradient λe=10 confounded critic complete 0.6000 0.4000" in text
    assert "Pareto front" in text
    assert "The chosen trial 1 reaches accuracy 0.6000 (test 0.5500), ridge 0.4000" in text
    assert "tracking uri: http://***@host" in text and "storage:" not in text


def test_show_before_anything_is_complete() -> None:
    declare(driver(STUDIES))
    text = said("show", "--study", "fake")
    assert "2 waiting" in text and "No trial completed" in text and "Pareto front" not in text


def test_a_study_is_named_as_it_was_when_it_was_run() -> None:
    past(STUDIES)
    assert said("show", "--study", "somewhere/fake.yaml") == said("show", "--study", "fake")
    Path("file.yaml").write_text(yaml.safe_dump(fakes.CONTENT))  # which names its study fake
    assert said("show", "--study", "file.yaml") == said("show", "--study", "fake")
    (STUDIES / "fake").rename(STUDIES / "fake-quick")
    assert "2 complete" in said("show", "--study", "fake", "--profile", "quick")  # the folder's name counts


def test_best_prints_a_configuration_that_loads(tmp_path: Path) -> None:
    recorder = past(STUDIES)
    console = Console(file=io.StringIO(), width=60, color_system=None)
    commands.main(["best", "--study", "fake"], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith("# trial 1 of fake: accuracy 0.6000")
    (tmp_path / "printed.yaml").write_text(text)
    chosen = results.choose(recorder.ledger.view(), recorder.ledger.spec)
    assert chosen is not None
    assert Config.load(tmp_path / "printed.yaml") == Config.build(chosen.user_attrs["config"])


def test_best_exports_to_a_new_file_only(tmp_path: Path) -> None:
    recorder = past(STUDIES)
    assert said("best", "--study", "fake", "--export", "new/best.yaml").endswith("configuration is in new/best.yaml")
    config = Config.build(recorder.ledger.trial(1).user_attrs["config"])
    assert Config.load(tmp_path / "new" / "best.yaml") == config
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["best.yaml"]
    Path("mine.yaml").write_text("mine")
    for taken in ("mine.yaml", "new"):
        with pytest.raises(StudyError, match=f"^'{taken}' exists; name a file that does not$"):
            said("best", "--study", "fake", "--export", taken)
    assert Path("mine.yaml").read_text() == "mine"
    with pytest.raises(StudyError, match="'mine.yaml/best.yaml' cannot be written: "):
        said("best", "--study", "fake", "--export", "mine.yaml/best.yaml")


def test_best_of_nothing_feasible_is_one_line() -> None:
    past(STUDIES, constraints=[{"metric": "accuracy", "low": 0.9}])
    with pytest.raises(StudyError, match="^study 'fake' has no trial to choose: None of 2 complete trials is within"):
        said("best", "--study", "fake")


def test_report_writes_a_page_where_it_is_told(tmp_path: Path) -> None:
    past(STUDIES)
    assert said("report", "--study", "fake") == f"lsx: {tmp_path}/lsx-studies/fake/report.html"
    assert (STUDIES / "fake" / "report.html").is_file()
    assert said("report", "--study", "fake", "--out", "pages/one.html") == "lsx: pages/one.html"
    assert Path("pages/one.html").is_file()


def test_mistakes_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    past(STUDIES)
    for words, message in (
        (["show", "--study", "fkae"], "unknown study 'fkae'; did you mean 'fake'?"),
        (["rerun", "--study", "fake", "9"], "study 'fake' has no trial 9; valid: 0 to 3"),
        (["rerun", "--study", "fake", "2"], "trial 2 is fail and has no final metrics to compare with"),
        (["report", "--study", "fake", "--out", "lsx-studies"], "'lsx-studies' cannot be written: "),
    ):
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("lsx: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["show"], ["rerun", "--study", "fake"], ["rerun", "--study", "fake", "one"], ["best", "x"]]
)
def test_unusable_words_are_told_by_the_parser(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "usage: tune.py" in capsys.readouterr().err


def test_without_a_command_a_study_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: Any) -> int:
        return 7 if args.study == "list" else 0

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["--study", "list"]) == 7
