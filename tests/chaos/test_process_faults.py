"""Faults of a study's processes and files, at moments that are chosen; ``python -m tests.chaos`` does more.

Every test takes a study through its fault to its end, and all that must hold is checked there.
"""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import faults, invariants
from tests.chaos.faults import Round
from tests.chaos.study import Study

pytestmark = pytest.mark.timeout(400)
JOURNAL = "tests.chaos.trials:journal_write"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A complete study without a fault; but a second driver was started at the same moment."""
    this = _round(tmp_path_factory.mktemp("undisturbed"))
    faults.second(this)
    return this.study


@pytest.fixture
def this(tmp_path: Path) -> Iterator[Round]:
    """A study that was not started yet."""
    this = _round(tmp_path)
    yield this
    this.study.end()


@pytest.fixture
def copied(undisturbed: Study, tmp_path: Path) -> Iterator[Round]:
    """The complete study, in a folder of its own; its runs stay where they are."""
    this = _round(tmp_path)
    for name in ("lsx-studies", "notes"):
        shutil.copytree(undisturbed.path / name, tmp_path / name)
    shutil.copy(undisturbed.path / "mlflow.db", tmp_path)
    (this.study.folder / "surroundings.json").unlink()
    yield this
    this.study.end()


def _round(path: Path) -> Round:
    return Round(Study(path, CHAOS_SECONDS="0.1"), random.Random(0), dawdle=0.3)


def _check(this: Round, undisturbed: Study | None = None, planned: int = 0) -> None:
    reference = None if undisturbed is None else undisturbed.trials()
    assert invariants.check(this.study, reference, this.failed, planned) == []


def test_one_of_two_drivers_runs_a_study(undisturbed: Study) -> None:
    assert sorted(driver.wait() for driver in undisturbed.drivers) == [faults.DONE, faults.USAGE_ERROR]
    assert invariants.check(undisturbed) == []


def test_driver_killed_again_and_again(this: Round, undisturbed: Study) -> None:
    faults.killed_at(this, "alembic.ddl.impl:DefaultImpl.create_table:16:after")  # while MLflow makes its tables
    faults.killed_at(this, "lsx.study.tracked.outbox:Outbox.open_trial:2:before")  # Optuna's trial runs, without a run
    faults.killed_at(this, f"{JOURNAL}:12:torn")
    faults.killed_at(this, "lsx.study.search.ledger:Ledger.complete:2:before")  # MLflow's has ended
    faults.killed_at(this, "lsx.study.shown.conclusion:_mark:1:after")
    assert not any("not reached" in one for one in this.told), this.told
    assert all(trial.state.is_finished() for trial in this.study.trials())
    this.study.finish()
    _check(this, undisturbed)


def test_asked_to_stop(this: Round, undisturbed: Study) -> None:
    """Ctrl-C while trials run, SIGTERM while Ray starts, a second one right after the first, one at the very end."""
    this.study.environment["CHAOS_SECONDS"] = "0.5"  # so that none finishes before it is told
    faults.stop_once(this, signal.SIGINT, "middle")
    stopped = {trial.number: this.study.noted(trial.number)[-1]["kept"] for trial in _running(this.study)}
    assert stopped
    faults.stop_once(this, signal.SIGTERM, "start")
    faults.twice(this)
    faults.stop_once(this, signal.SIGTERM, "end")
    this.study.finish()
    for number, kept in stopped.items():
        assert [one["start"] for one in this.study.noted(number) if "start" in one][1] == kept
    _check(this, undisturbed)


def _running(study: Study) -> list[Any]:
    return [trial for trial in study.trials() if trial.state.name == "RUNNING"]


def test_trials_that_go_wrong(this: Round) -> None:
    faults.wrong(this)
    _check(this)


def test_trial_that_takes_all_memory(this: Round) -> None:
    this.study.write(budget={"trials": 3, "attempts": 2})
    faults.memory(this)
    _check(this)


def test_damaged_journal(copied: Round, undisturbed: Study) -> None:
    sound = copied.study.journal.read_bytes()
    lines = sound.splitlines(keepends=True)
    copied.study.journal.write_bytes(b"".join([*lines[:20], b"{\n", *lines[21:]]))
    faults.refused(copied, "line 21")

    copied.study.journal.write_bytes(sound)
    faults.damage_tail(copied)
    faults.check_repaired(copied, copied.study.finish())
    _check(copied, undisturbed)


def test_edited_study(copied: Round) -> None:
    before = dict(copied.study.content)
    flipped = [{"metric": "accuracy", "direction": "minimize"}, before["objectives"][1]]
    copied.study.write(objectives=flipped)
    faults.refused(copied, "objectives: ")

    copied.study.write(**before)
    faults.edit(copied)
    _check(copied)


def test_start_over(copied: Round) -> None:
    killed = copied.study.start("--fresh", CHAOS_KILL="pathlib:Path.rename:1:after")
    assert killed.wait() == -signal.SIGKILL
    copied.study.forget()
    copied.study.finish()
    _check(copied)
    assert len(list((copied.study.path / "lsx-studies").iterdir())) == 2
