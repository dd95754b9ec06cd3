"""What the outbox keeps, delivers and leaves out: with a fake store that fails on demand, SQLite files and a server."""

import errno
import json
import math
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from lsx.errors import StudyError
from lsx.study.environment import quiet
from tests.study.servers import Server

quiet.prepare()

from mlflow import MlflowClient  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE  # noqa: E402

from lsx.study.tracked import outbox as module  # noqa: E402
from lsx.study.tracked import spool  # noqa: E402
from lsx.study.tracked.outbox import Outbox  # noqa: E402
from lsx.study.tracked.tracking import PARENT, Tracker, default_uri  # noqa: E402

quiet.hush()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions without the long pauses between them."""
    monkeypatch.setattr(module, "GATHERING", 0.01)
    monkeypatch.setattr(module, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(module, "HURRIED_PAUSE", 0.02)


class FakeTracker:
    """Remembers what it was told; ``fails`` raises what it wants instead."""

    parent = "parent"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: Callable[[tuple[Any, ...]], None] = lambda call: None
        self.missing: set[str] = set()

    def open_trial(self, number: int, name: str, run_id: str | None, tags: Any, start: int | None = None) -> str:
        self._say("open", number, name, run_id)
        return run_id or f"run{number}"

    def describe(self, run_id: str, params: Any) -> None:
        self._say("describe", run_id, dict(params))

    def log_rows(self, run_id: str, rows: Any, tags: Any) -> None:
        self._say("log", run_id, [(step, dict(metrics)) for _, step, metrics in rows], dict(tags))

    def attach(self, run_id: str, path: Path, folder: str | None) -> None:
        self._say("attach", run_id, path.name, folder)

    def end(self, run_id: str, ending: str, timestamp: int) -> None:
        self._say("end", run_id, ending)

    def exists(self, run_id: str) -> bool:
        return run_id not in self.missing

    def touch(self) -> None:
        self.fails(("touch",))

    def renew_study(self) -> None:
        self._say("renew")

    def discard_doubles(self, number: int, run_id: str) -> None:
        self._say("doubles", number, run_id)

    def _say(self, *call: Any) -> None:
        self.fails(call)
        self.calls.append(call)

    @property
    def steps(self) -> list[int]:
        return [step for call in self.calls if call[0] == "log" for step, _ in call[2]]


def box(path: Path, tracker: Any, started: bool = True, **changes: Any) -> Outbox:
    outbox = Outbox(path / "outbox.jsonl", tracker, **changes)
    if started:
        outbox.start()
    return outbox


def refusing(*words: str) -> Callable[[tuple[Any, ...]], None]:
    """A store that takes all but what says one of the words."""

    def fails(call: tuple[Any, ...]) -> None:
        if any(word in str(call) for word in words):
            raise MlflowException("no such value", INVALID_PARAMETER_VALUE)

    return fails


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- with a store that fails on demand


def test_entries_are_delivered_in_order(tmp_path: Path) -> None:
    tracker = FakeTracker()
    outbox = box(tmp_path, tracker)
    outbox.open_trial(3, "003 x", {"a": 1, "b": ["x"]}, {"role": "search"})
    assert outbox.flush(20)
    outbox.log(3, {"loss": 0.5}, 1, position=1)
    outbox.attach(3, tmp_path / "picture.png", "pictures")
    outbox.end(3, "FINISHED")
    outbox.log(None, {"best": 1.0}, tags={"answer": "yes"})
    assert outbox.flush(20) and outbox.waiting == 0 and outbox.trouble is None
    outbox.close()
    assert tracker.calls == [
        ("open", 3, "003 x", None),
        ("describe", "run3", {"a": "1", "b": "['x']"}),
        ("log", "run3", [(1, {"loss": 0.5})], {}),
        ("attach", "run3", "picture.png", "pictures"),
        ("end", "run3", "FINISHED"),
        ("log", "parent", [(0, {"best": 1.0})], {"answer": "yes"}),
    ]
    assert outbox.run_id(3) == "run3"


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("HTTPConnectionPool: Max retries exceeded"),
        MlflowException("(sqlite3.OperationalError) database is locked", TEMPORARILY_UNAVAILABLE),
        ConnectionResetError("by peer"),
        OSError(errno.ENOSPC, "No space left on device"),
        StudyError("MLflow at 'http://user:secret@host' cannot be used: not now"),
    ],
)
def test_a_store_that_dies_and_comes_back_misses_nothing(error: Exception, tmp_path: Path) -> None:
    tracker, dead = FakeTracker(), threading.Event()

    def fails(call: tuple[Any, ...]) -> None:
        if dead.is_set():
            raise error

    tracker.fails = fails
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000", {}, {})
    for step in range(5):
        outbox.log(0, {"loss": 1.0}, step)
    assert outbox.flush(20)
    dead.set()
    for step in range(5, 10):
        outbox.log(0, {"loss": 1.0}, step)
    wait_until(lambda: outbox.trouble)
    trouble = outbox.trouble or ""
    assert "\n" not in trouble and "secret" not in trouble
    assert outbox.waiting == 5 and not outbox.flush(0.1)
    dead.clear()
    assert outbox.flush(20) and outbox.trouble is None and outbox.refused == 0
    outbox.close()
    assert tracker.steps == list(range(10))


def test_a_backlog_goes_in_few_requests(tmp_path: Path) -> None:
    tracker = FakeTracker()
    outbox = box(tmp_path, tracker, started=False)
    outbox.open_trial(0, "000", {}, {})
    for step in range(600):
        outbox.log(0, {"a": 1.0, "b": 2.0}, step, tags={f"tag{step}": 1} if step < 120 else {})
    outbox.log(None, {"c": 1.0}, 7)
    outbox.log(0, {"a": 1.0}, 600)
    outbox.start()
    assert outbox.flush(30)
    outbox.close()
    logs = [call for call in tracker.calls if call[0] == "log"]
    assert len(logs) <= 5
    assert max(sum(len(metrics) for _, metrics in call[2]) for call in logs) <= 1000
    assert max(len(call[3]) for call in logs) <= 100
    assert [step for call in logs if call[1] == "run0" for step, _ in call[2]] == list(range(601))
    assert logs[-1][1] == "parent"


def test_metrics_are_gathered_until_there_is_something_else_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHERING", 600.0)
    tracker = FakeTracker()
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000", {}, {})
    outbox.open_trial(1, "001", {}, {})
    wait_until(lambda: outbox.waiting == 0)  # a run is opened at once: its trial notes its id
    tracker.calls.clear()
    for step in range(4):
        outbox.log(0, {"a": 1.0}, step)
        outbox.log(1, {"b": 1.0}, step)
    time.sleep(0.1)
    assert tracker.calls == []
    outbox.end(0, "FINISHED")
    wait_until(lambda: outbox.waiting == 0)
    for step in range(4, 6):
        outbox.log(1, {"b": 1.0}, step)
    assert outbox.flush(20)  # somebody waits
    outbox.log(1, {"b": 1.0}, 6)
    outbox.close()

    def rows(name: str, *steps: int) -> list[tuple[int, dict[str, float]]]:
        return [(step, {name: 1.0}) for step in steps]

    assert tracker.calls == [
        ("log", "run0", rows("a", 0, 1, 2, 3), {}),
        ("log", "run1", rows("b", 0, 1, 2, 3), {}),
        ("end", "run0", "FINISHED"),
        ("log", "run1", rows("b", 4, 5), {}),
    ]
    assert box(tmp_path, tracker, started=False).waiting == 1


def test_what_was_delivered_out_of_turn_is_not_delivered_again(tmp_path: Path) -> None:
    tracker = FakeTracker()
    tracker.fails = lambda call: (_ for _ in ()).throw(ConnectionError("dead")) if call[:2] == ("log", "run1") else None
    before = box(tmp_path, tracker, started=False)
    before.open_trial(0, "000", {}, {})
    before.open_trial(1, "001", {}, {})
    for step in range(3):
        before.log(0, {"a": 1.0}, step)
        before.log(1, {"b": 1.0}, step)
    before.start()
    wait_until(lambda: before.trouble)
    before.close()
    assert tracker.steps == [0, 1, 2]
    tracker.fails = lambda call: None
    after = box(tmp_path, tracker, started=False)
    assert after.waiting == 3
    after.start()
    assert after.flush(20)
    after.close()
    assert [call[1] for call in tracker.calls if call[0] == "log"] == ["run0", "run1"]


def test_what_one_driver_leaves_the_next_delivers(tmp_path: Path) -> None:
    dead = FakeTracker()
    dead.fails = lambda call: (_ for _ in ()).throw(ConnectionError("dead"))
    before = box(tmp_path, dead)
    before.open_trial(4, "004", {"a": 1}, {})
    before.log(4, {"loss": 0.5}, 1, position=6)
    before.end(4, "KILLED")
    before.end(None, "KILLED")
    wait_until(lambda: before.trouble)
    before.close()
    with pytest.raises(StudyError, match="is closed"):
        before.log(4, {})
    tracker = FakeTracker()
    after = box(tmp_path, tracker, started=False, runs={1: "known"})
    assert after.waiting == 4 and after.position(4) == 6 and after.position(5) == 0
    assert after.run_id(1) == "known" and after.run_id(4) is None
    after.open_trial(4, "004", {"a": 1}, {})
    after.end(None, "FINISHED")
    after.start()
    assert after.flush(20)
    after.close()
    assert [call[:3] for call in tracker.calls] == [
        ("open", 4, "004"),
        ("describe", "run4", {"a": "1"}),
        ("log", "run4", [(1, {"loss": 0.5})]),
        ("end", "run4", "KILLED"),  # and not the study, which has been opened again since
        ("open", 4, "004"),
        ("describe", "run4", {"a": "1"}),
        ("end", "parent", "FINISHED"),
    ]
    assert box(tmp_path, tracker, started=False, runs={4: "stale"}).run_id(4) == "run4"


def test_an_append_is_in_the_file_before_it_returns(tmp_path: Path) -> None:
    outbox = box(tmp_path, FakeTracker(), started=False)
    before = time.time() * 1000
    outbox.log(2, {"nan": math.nan, "inf": math.inf, "low": -math.inf}, 3, position=3)
    (entry,) = lines(tmp_path / "outbox.jsonl")
    assert before - 1 <= entry["at"] <= time.time() * 1000
    tracker = FakeTracker()
    again = box(tmp_path, tracker)
    assert again.flush(20)
    ((_, _, ((step, metrics),), _),) = [call for call in tracker.calls if call[0] == "log"]
    assert step == 3 and math.isnan(metrics["nan"]) and metrics["inf"] == math.inf and metrics["low"] == -math.inf


@pytest.mark.parametrize("tail", [b'{"n": 3, "do": "lo', b"\0\0\0\0", b'{"n": 3, "do": "log", "run": 0, "at": 1}'])
def test_a_torn_last_line_is_cut(tail: bytes, tmp_path: Path) -> None:
    outbox = box(tmp_path, FakeTracker(), started=False)
    outbox.log(None, {"a": 1.0}, 1)
    outbox.log(None, {"a": 1.0}, 2)
    outbox.close()
    whole = (tmp_path / "outbox.jsonl").read_bytes()
    (tmp_path / "outbox.jsonl").write_bytes(whole + tail)
    tracker = FakeTracker()
    after = box(tmp_path, tracker, started=False)
    assert (tmp_path / "outbox.jsonl").read_bytes() == whole
    after.log(None, {"a": 1.0}, 3)
    after.start()
    assert after.flush(20) and after.refused == 0
    assert tracker.steps == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_set_aside(tmp_path: Path) -> None:
    outbox = box(tmp_path, FakeTracker(), started=False)
    for step in range(3):
        outbox.log(0, {"a": 1.0}, step, position=step)
    outbox.close()
    parts = (tmp_path / "outbox.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "outbox.jsonl").write_bytes(parts[0] + b"}garbage{\n" + parts[2])
    tracker = FakeTracker()
    for _ in range(2):  # reported once
        after = box(tmp_path, tracker, started=False)
        assert (after.refused, after.waiting, after.position(0)) == (1, 2, 2)
        after.close()
    assert lines(tmp_path / "outbox-refused.jsonl") == [{"reason": "damaged line", "line": "}garbage{\n"}]


@pytest.mark.parametrize("truncates", [True, False])
def test_a_full_disk_is_one_line_and_leaves_no_half_entry(
    truncates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = box(tmp_path, FakeTracker(), started=False)
    outbox.log(1, {"a": 1.0}, 1, position=1)
    whole = (tmp_path / "outbox.jsonl").read_bytes()
    write = os.write

    def full(file: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "write", full)
        if not truncates:
            patch.setattr(spool.os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError("not now")))
        with pytest.raises(StudyError, match="outbox.*cannot be written: No space left") as caught:
            outbox.log(1, {"a": 1.0}, 2, position=2)
    assert "\n" not in str(caught.value)
    assert ((tmp_path / "outbox.jsonl").read_bytes() == whole) is truncates
    assert outbox.waiting == 1 and outbox.position(1) == 1
    outbox.log(1, {"a": 1.0}, 3, position=3)
    tracker = FakeTracker()
    after = box(tmp_path, tracker)
    assert after.flush(20) and after.position(1) == 3
    assert tracker.steps == [1, 3]


def test_a_refused_entry_is_set_aside_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    tracker = FakeTracker()
    tracker.fails = refusing("bad")
    outbox = box(tmp_path, tracker, started=False)
    for step, name in enumerate(["good", "bad", "good", "good"]):
        outbox.log(None, {name: 1.0}, step)
    outbox.start()
    assert outbox.flush(20) and outbox.refused == 1 and outbox.trouble is None
    outbox.log(None, {"good": 1.0}, 4)
    outbox.log(None, {"good": 1.0}, 5)
    assert outbox.flush(20)
    outbox.close()
    assert tracker.steps == [0, 2, 3, 4, 5]
    (refused,) = lines(tmp_path / "outbox-refused.jsonl")
    assert refused["entry"]["metrics"] == {"bad": 1.0} and "no such value" in refused["reason"]
    assert box(tmp_path, tracker, started=False).refused == 1  # also for the next driver


def test_a_run_that_is_restored_between_the_failure_and_the_question_takes_its_entry(tmp_path: Path) -> None:
    tracker = FakeTracker()
    failures = iter([MlflowException("the run is deleted", INVALID_PARAMETER_VALUE)])

    def fails(call: tuple[Any, ...]) -> None:
        if call[0] == "log" and (error := next(failures, None)):
            raise error

    tracker.fails = fails
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000", {}, {})
    outbox.log(0, {"loss": 0.5}, 1)
    assert outbox.flush(20) and outbox.refused == 0 and tracker.steps == [1]
    outbox.close()


def test_refused_parameters_cost_the_run_nothing_else(tmp_path: Path) -> None:
    tracker = FakeTracker()
    tracker.fails = refusing("describe")
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000", {"a": 1}, {})
    outbox.log(0, {"loss": 1.0}, 1)
    assert outbox.flush(20) and outbox.refused == 1 and outbox.run_id(0) == "run0"
    assert tracker.steps == [1]


def test_an_entry_that_fails_while_the_store_works_does_not_block_for_ever(tmp_path: Path) -> None:
    tracker = FakeTracker()

    def fails(call: tuple[Any, ...]) -> None:
        if "poison" in str(call):
            raise MlflowException("internal error")

    tracker.fails = fails
    outbox = box(tmp_path, tracker)
    for step, name in enumerate(["good", "poison", "good"]):
        outbox.log(None, {name: 1.0}, step)
    assert outbox.flush(30) and outbox.refused == 1
    assert tracker.steps == [0, 2]


def test_an_entry_is_never_given_up_while_the_store_does_not_work(tmp_path: Path) -> None:
    tracker, tries = FakeTracker(), []

    def fails(call: tuple[Any, ...]) -> None:
        tries.append(call)
        if len(tries) < 60:
            raise ConnectionError("dead")

    tracker.fails = fails
    outbox = box(tmp_path, tracker)
    outbox.log(None, {"a": 1.0}, 1)
    assert outbox.flush(30) and outbox.refused == 0
    assert tracker.steps == [1]


def test_a_run_that_was_opened_with_doubts_is_the_only_one_at_the_end(tmp_path: Path) -> None:
    tracker, once = FakeTracker(), []

    def fails(call: tuple[Any, ...]) -> None:
        if call[:2] == ("open", 1) and not once:
            once.append(1)
            raise MlflowException("timeout exception")

    tracker.fails = fails
    outbox = box(tmp_path, tracker)
    for number in (0, 1):
        outbox.open_trial(number, "name", {}, {})
        outbox.end(number, "FINISHED")
    assert outbox.flush(20)
    assert [call for call in tracker.calls if call[0] == "doubles"] == [("doubles", 1, "run1")]


def test_a_compacted_file_keeps_positions_runs_and_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "COMPACT_BYTES", 5_000)
    tracker = FakeTracker()
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000", {f"key{n}": n for n in range(50)}, {"role": "search"})
    outbox.open_trial(1, "001", {"a": 1}, {"role": "search"})
    for position in range(1, 251):
        outbox.log(0, {"loss": 1 / position}, position, position=position)
    outbox.end(0, "FINISHED")
    assert outbox.flush(30)
    assert (tmp_path / "outbox.jsonl").stat().st_size < 15_000  # of 35 kB
    outbox.close()
    assert (tmp_path / "outbox.jsonl").stat().st_size < 1000
    (header,) = lines(tmp_path / "outbox.jsonl")
    assert header["openings"]["0"]["params"] == {} and header["openings"]["1"]["params"] == {"a": "1"}
    after = box(tmp_path, tracker, started=False)
    assert (after.position(0), after.run_id(0), after.waiting) == (250, "run0", 0)
    after.log(0, {"loss": 0.0}, 251, position=251)
    after.start()
    assert after.flush(20) and tracker.steps == list(range(1, 252))


def test_a_failed_compaction_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "COMPACT_BYTES", 100)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    tracker = FakeTracker()
    outbox = box(tmp_path, tracker)
    for position in range(1, 6):
        outbox.log(None, {"a": 1.0}, position)
    assert outbox.flush(20)
    outbox.close()
    assert [path.name for path in tmp_path.iterdir()] == ["outbox.jsonl"]
    assert box(tmp_path, tracker, started=False).waiting == 0


def test_flush_calls_tick_which_may_end_it(tmp_path: Path) -> None:
    outbox = box(tmp_path, FakeTracker(), started=False)
    outbox.log(None, {}, tags={"a": 1})
    ticks = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outbox.flush(20, tick)
    assert len(ticks) == 3


def test_a_flush_does_not_wait_for_the_long_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORTEST_PAUSE", 1000.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 1000.0)
    tracker, once = FakeTracker(), []

    def fails(call: tuple[Any, ...]) -> None:
        if not once:
            once.append(1)
            raise ConnectionError("dead")

    tracker.fails = fails
    outbox = box(tmp_path, tracker)
    outbox.log(None, {"a": 1.0})
    wait_until(lambda: outbox.trouble)
    assert outbox.flush(20)


def test_an_append_and_the_end_do_not_wait_for_a_request_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_REQUEST", 0.1)
    tracker, begun, answer = FakeTracker(), threading.Event(), threading.Event()

    def hangs(call: tuple[Any, ...]) -> None:
        begun.set()
        answer.wait(60)

    tracker.fails = hangs
    outbox = box(tmp_path, tracker)
    outbox.log(None, {"a": 1.0}, 1)
    assert begun.wait(20)
    outbox.log(None, {"a": 1.0}, 2)
    outbox.close()
    left = (tmp_path / "outbox.jsonl").read_bytes()
    answer.set()
    assert outbox._thread is not None
    outbox._thread.join(20)
    assert (tmp_path / "outbox.jsonl").read_bytes() == left  # a late answer writes nothing any more
    assert box(tmp_path, tracker, started=False).waiting == 2


# ---------------------------------------------------------------- with a real SQLite file


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for most tests, each with its own experiment: making it takes seconds."""
    return default_uri(tmp_path_factory.mktemp("store"))


@pytest.fixture
def make(uri: str, tmp_path: Path) -> Callable[..., Tracker]:
    experiment = uuid.uuid4().hex

    def tracker(uri: str = uri, identity: str = "study-a") -> Tracker:
        tracker = Tracker(uri, experiment, identity, tmp_path)
        tracker.open_study("name", {}, set())
        return tracker

    return tracker


def runs(tracker: Tracker) -> dict[str, list[Any]]:
    """Active runs by trial number; those of the study by ``study``."""
    found: dict[str, list[Any]] = {}
    for run in MlflowClient(tracking_uri=tracker.uri).search_runs([tracker._experiment], max_results=1000):
        found.setdefault(run.data.tags.get("lsx.trial", "study"), []).append(run)
    return found


def history(tracker: Tracker, run: Any, name: str) -> list[Any]:
    return list(MlflowClient(tracking_uri=tracker.uri).get_metric_history(run.info.run_id, name))


def told(outbox: Outbox, file: Path, steps: int = 3) -> None:
    outbox.open_trial(0, "000 name", {"a": 1}, {"lsx.role": "search"})
    for step in range(1, steps + 1):
        outbox.log(0, {"loss": 1 / step, "nan": math.nan, "inf": math.inf}, step, position=step)
    outbox.attach(0, file)
    outbox.attach(0, file.with_name("gone.png"))
    outbox.log(0, {}, tags={"lsx.status": "complete"})
    outbox.end(0, "FINISHED")


def test_a_backlog_carries_the_times_at_which_things_happened(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    (tmp_path / "config.yaml").write_text("seed: 1")
    outbox = box(tmp_path, tracker, started=False)
    told(outbox, tmp_path / "config.yaml")
    said = int(time.time() * 1000)
    wait_until(lambda: time.time() * 1000 > said + 5)
    outbox.start()
    assert outbox.flush(60)
    outbox.close()
    (run,) = runs(tracker)["0"]
    assert (run.info.run_name, run.info.status, run.data.params) == ("000 name", "FINISHED", {"a": "1"})
    assert run.data.tags["lsx.status"] == "complete" and run.data.tags[PARENT] == tracker.parent
    assert run.info.start_time <= run.info.end_time <= said
    losses = history(tracker, run, "loss")
    assert [(one.step, one.value) for one in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert all(run.info.start_time <= one.timestamp <= said for one in losses)
    assert all(math.isnan(one.value) for one in history(tracker, run, "nan"))
    assert history(tracker, run, "inf")[0].value > 1e308
    names = [one.path for one in MlflowClient(tracking_uri=tracker.uri).list_artifacts(run.info.run_id)]
    assert names == ["config.yaml"]


@pytest.mark.parametrize("lost", ["everything", "acknowledgements"])
def test_a_driver_killed_before_it_acknowledged_delivers_again_and_nothing_shows(
    lost: str, make: Callable[..., Tracker], tmp_path: Path
) -> None:
    tracker = make()
    outbox = box(tmp_path, tracker, started=False)
    told(outbox, tmp_path / "x")
    before = (tmp_path / "outbox.jsonl").read_bytes()
    outbox.start()
    assert outbox.flush(60)
    kept = [line for line in (tmp_path / "outbox.jsonl").read_bytes().splitlines(keepends=True) if b'"ack"' not in line]
    outbox.close()
    (first,) = runs(tracker)["0"]
    (tmp_path / "outbox.jsonl").write_bytes(before if lost == "everything" else b"".join(kept))
    again = box(tmp_path, make(), started=False)
    assert again.waiting == 8
    again.start()
    assert again.flush(60)
    again.close()
    (run,) = runs(tracker)["0"]
    assert run.info.run_id == first.info.run_id == again.run_id(0)
    assert (run.info.status, run.info.end_time) == ("FINISHED", first.info.end_time)
    for name in ("loss", "nan", "inf"):
        assert [one.step for one in history(tracker, run, name)] == [1, 2, 3]
    assert again.refused == 0


def test_a_run_that_a_person_deletes_is_made_anew(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000 name", {"a": 1}, {"lsx.role": "search"})
    outbox.log(None, {"best": 1.0}, 1)
    assert outbox.flush(60)
    gone, parent = outbox.run_id(0), tracker.parent
    client = MlflowClient(tracking_uri=tracker.uri)
    client.delete_run(gone)
    outbox.log(0, {"loss": 0.5}, 2)
    assert outbox.flush(60)
    client.delete_run(parent)
    outbox.log(None, {"best": 2.0}, 2)
    outbox.end(0, "FINISHED")
    assert outbox.flush(60) and outbox.refused == 0
    outbox.close()
    found = runs(tracker)
    (run,), (study,) = found["0"], found["study"]
    assert run.info.run_id == outbox.run_id(0) != gone and study.info.run_id == tracker.parent != parent
    assert (run.info.run_name, run.info.status, run.data.params) == ("000 name", "FINISHED", {"a": "1"})
    assert run.data.tags["lsx.role"] == "search" and run.data.tags[PARENT] == tracker.parent
    assert run.data.metrics == {"loss": 0.5} and study.data.metrics == {"best": 2.0}


def test_a_finished_run_made_anew_is_finished(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    outbox = box(tmp_path, tracker)
    told(outbox, tmp_path / "x")
    assert outbox.flush(60)
    MlflowClient(tracking_uri=tracker.uri).delete_run(outbox.run_id(0))
    outbox.close()
    after = box(tmp_path, make())
    after.log(0, {"test/accuracy": 0.5})
    assert after.flush(60)
    (run,) = runs(tracker)["0"]
    assert (run.info.run_name, run.info.status, run.data.metrics) == ("000 name", "FINISHED", {"test/accuracy": 0.5})


def test_a_deleted_experiment_makes_entries_wait_until_it_is_restored(
    make: Callable[..., Tracker], tmp_path: Path
) -> None:
    tracker = make()
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000 name", {}, {})
    assert outbox.flush(60)
    client = MlflowClient(tracking_uri=tracker.uri)
    client.delete_experiment(tracker._experiment)
    outbox.log(0, {"loss": 0.5}, 1)
    wait_until(lambda: outbox.trouble)
    assert "was deleted" in (outbox.trouble or "") and "mlflow experiments restore" in (outbox.trouble or "")
    client.restore_experiment(tracker._experiment)
    assert outbox.flush(60) and outbox.refused == 0
    (run,) = runs(tracker)["0"]
    assert run.data.metrics == {"loss": 0.5}


def test_a_changed_parameter_is_set_aside(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    outbox = box(tmp_path, tracker)
    outbox.open_trial(0, "000 name", {"a": 1}, {})
    outbox.open_trial(0, "000 name", {"a": 2}, {})
    outbox.log(0, {"loss": 0.5})
    assert outbox.flush(60) and outbox.refused == 1
    assert "Changing param values is not allowed" in lines(tmp_path / "outbox-refused.jsonl")[0]["reason"]
    (run,) = runs(tracker)["0"]
    assert run.data.params == {"a": "1"} and run.data.metrics == {"loss": 0.5} and run.info.status == "RUNNING"


def test_another_store_gets_runs_of_its_own(make: Callable[..., Tracker], tmp_path: Path) -> None:
    before = box(tmp_path, make())
    before.open_trial(0, "000 name", {"a": 1}, {"lsx.role": "search"})
    assert before.flush(60)
    before.close()
    there = make(default_uri(tmp_path / "elsewhere"))
    after = box(tmp_path, there, runs={1: "0" * 32})
    after.log(0, {"loss": 0.5}, 1)
    after.open_trial(1, "001 name", {}, {})
    assert after.flush(60) and after.refused == 0
    assert after.run_id(0) != before.run_id(0) and after.run_id(1) != "0" * 32
    found = runs(there)
    assert found["0"][0].data.metrics == {"loss": 0.5} and found["0"][0].data.params == {"a": "1"}
    assert found["1"][0].info.run_name == "001 name"


@pytest.fixture
def impatient() -> Iterator[None]:
    """MLflow sets 20 seconds at every session for which SQLite waits for a lock."""

    def shorten(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> Any:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@pytest.mark.usefixtures("impatient")
def test_a_locked_file_makes_entries_wait(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    outbox = box(tmp_path, tracker)
    with closing(sqlite3.connect(tracker.uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        told(outbox, tmp_path / "x")
        wait_until(lambda: outbox.trouble)
        assert "database is locked" in (outbox.trouble or "") and outbox.waiting == 8
        other.rollback()
    assert outbox.flush(60) and outbox.trouble is None and outbox.refused == 0
    (run,) = runs(tracker)["0"]
    assert [one.step for one in history(tracker, run, "loss")] == [1, 2, 3] and run.info.status == "FINISHED"


# ---------------------------------------------------------------- with a real server


def test_a_server_that_is_killed_frozen_or_slow_misses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "server").mkdir()
    (tmp_path / "note.txt").write_text("kept")
    with Server(tmp_path / "server") as server:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        tracker = Tracker(server.uri.replace("http://", "http://someone:secret@"), "study", "identity", tmp_path)
        tracker.open_study("name", {}, set())
        outbox = box(tmp_path, tracker)
        server.kill()
        told(outbox, tmp_path / "note.txt")
        wait_until(lambda: outbox.trouble)
        assert "no server answers there" in (outbox.trouble or "") and "secret" not in (outbox.trouble or "")
        assert outbox.waiting == 8
        server.start()
        assert outbox.flush(120) and outbox.trouble is None
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        server.freeze()
        outbox.log(0, {"late": 1.0}, 4)
        wait_until(lambda: outbox.trouble)
        server.thaw()
        assert outbox.flush(120)
        runs_made = slow_to_open(1, outbox, tracker, server)
        outbox.end(1, "FINISHED")
        assert outbox.flush(120) and outbox.refused == 0
        outbox.close()
        found = runs(tracker)
        (first,), (second,) = found["0"], found["1"]
        assert runs_made > 1  # of which the empty ones are gone
        assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
        assert second.data.params == {"a": "1"} and first.data.metrics["late"] == 1.0
        assert [one.step for one in history(tracker, first, "loss")] == [1, 2, 3]
        assert [math.isnan(one.value) for one in history(tracker, first, "nan")] == [True] * 3
        artifacts = MlflowClient(tracking_uri=tracker.uri).list_artifacts(first.info.run_id)
        assert [one.path for one in artifacts] == ["note.txt"]


def slow_to_open(number: int, outbox: Outbox, tracker: Tracker, server: Server) -> int:
    """Open a trial while the server does what it is asked for, but too late; returns how many runs that made."""
    asked = []
    create = tracker._client.create_run
    tracker._client.create_run = lambda *args, **named: (asked.append(1), create(*args, **named))[1]
    with closing(sqlite3.connect(server.database)) as other:
        other.execute("BEGIN IMMEDIATE")
        outbox.open_trial(number, "001 name", {"a": 1}, {})
        wait_until(lambda: len(asked) > 2)
        other.rollback()
    assert outbox.flush(120)

    def made() -> int:
        with closing(sqlite3.connect(server.database)) as database:
            counted = "SELECT count(*) FROM tags WHERE key = 'lsx.trial' AND value = ?"
            return int(database.execute(counted, [str(number)]).fetchone()[0])

    wait_until(lambda: made() == len(asked))
    return made()
