"""Signals: the first ends a study at its next safe point, the second at once, the third like everywhere else."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lsx.study.running.watch import Watch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals(watch: Watch) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP stop the study, unless they are ignored; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _handlers()

    def note(number: int, _: Any) -> None:
        if watch.reason == "signal":
            for other, handler in before.items():
                signal.signal(other, handler)
        watch.stop("signal")

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def put_back() -> None:
    """Let Python handle the signals as it was told, after a library in C has changed that behind its back."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in _handlers().items():
            signal.signal(number, handler)


@contextmanager
def signals_kept(context: Any) -> Iterator[None]:
    """Enter a context (Ray's) that sets signal handlers of its own, and put back those before."""
    main = threading.current_thread() is threading.main_thread()
    before = _handlers()
    with context:
        if main:
            for number, handler in before.items():
                signal.signal(number, handler)
        yield


def _handlers() -> dict[signal.Signals, Any]:
    """Of the signals that mean something: a shell lets those be ignored that nohup and background jobs must survive."""
    known = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in known.items() if handler not in (signal.SIG_IGN, None)}
