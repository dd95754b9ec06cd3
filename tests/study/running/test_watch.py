"""When the loop over trials ends, and what signals do."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from lsx.study.running import interruption, watch
from lsx.study.running.interruption import SIGNALS, signals, signals_kept
from lsx.study.running.watch import Halt, Watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def over(one: Watch) -> bool:
    try:
        one.check()
    except Halt:
        return True
    return False


def test_a_stop_waits_for_the_trials_out_there_but_not_for_ever(clock: list[float]) -> None:
    one = Watch(grace=20)
    assert not over(one)
    one.live = {1, 2}
    one.stop("signal")
    assert not over(one)
    one.live.discard(1)
    clock[0] += 19
    assert not over(one)
    clock[0] += 1
    assert over(one)


def test_a_stop_without_trials_is_at_once(clock: list[float]) -> None:
    one = Watch()
    one.live = {1}
    one.stop("time")
    assert not over(one)
    one.live.clear()
    assert over(one)


def test_the_second_stop_is_at_once_and_keeps_the_reason(clock: list[float]) -> None:
    one = Watch()
    one.live = {1}
    one.stop("time")
    one.stop("signal")
    assert over(one)
    assert one.reason == "time"


def test_after_a_rest_the_next_signal_counts(clock: list[float]) -> None:
    one = Watch()
    one.live, told = {1}, []
    one.stop("time")
    one.tell(lambda: told.append("time"))
    one.rest()
    assert not over(one)
    one.stop("signal")
    assert one.reason == "signal" and over(one)


def test_the_first_error_ends_the_loop_and_what_comes_after_is_not_done() -> None:
    one = Watch()
    assert one.run(lambda: 3, otherwise=4) == 3
    assert one.run(lambda: 1 / 0, otherwise=4) == 4
    fault = one.fault
    assert isinstance(fault, ZeroDivisionError) and over(one)
    assert one.run(lambda: pytest.fail("done"), otherwise=4) == 4
    assert one.fault is fault


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Signals that reached the handlers that were there before."""
    reached: list[int] = []
    before = {number: signal.signal(number, lambda number, _: reached.append(number)) for number in SIGNALS}
    yield reached
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_third_signal_is_that_of_everywhere_else(handlers: list[int]) -> None:
    one = Watch()
    one.live = {1}
    with signals(one):
        os.kill(os.getpid(), signal.SIGTERM)
        assert one.reason == "signal" and not over(one)
        os.kill(os.getpid(), signal.SIGHUP)
        assert over(one) and handlers == []
        os.kill(os.getpid(), signal.SIGINT)
        assert handlers == [signal.SIGINT]
    os.kill(os.getpid(), signal.SIGTERM)
    assert handlers == [signal.SIGINT, signal.SIGTERM]


def test_ctrl_c_while_time_is_up_is_at_once(handlers: list[int]) -> None:
    one = Watch()
    one.live = {1}
    with signals(one):
        one.stop("time")
        os.kill(os.getpid(), signal.SIGINT)
        assert over(one) and handlers == []


def test_handlers_of_a_context_are_put_back(handlers: list[int]) -> None:
    @contextmanager
    def ray() -> Iterator[None]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        yield

    with signals_kept(ray()):
        os.kill(os.getpid(), signal.SIGTERM)
    assert handlers == [signal.SIGTERM]


def test_other_threads_have_no_signals() -> None:
    found: list[Any] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with interruption.signals(Watch()), signals_kept(signals(Watch())):
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert found == [True]


def test_the_stop_word_is_looked_up_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    from lsx.study.worker import stopping

    said: set[str] = set()
    looks: list[str] = []
    now = [50.0]
    kv = SimpleNamespace(
        _internal_kv_put=lambda key, value, namespace: said.add(key),
        _internal_kv_get=lambda key, namespace: looks.append(key) or (b"1" if key in said else None),
    )
    monkeypatch.setattr(stopping, "internal_kv", kv)
    monkeypatch.setattr(stopping, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))
    word, other = stopping.StopWord("mine"), stopping.StopWord("another driver's")
    assert not word.said()
    stopping.ask("mine")
    assert not word.said() and looks == ["mine"]  # not looked up again within half a second
    now[0] += 1
    assert word.said() and not other.said()
