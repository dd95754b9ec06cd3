"""Signals: the first ends a study at its next safe point, the second at once, the third like everywhere else."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lsx.study.watch import Watch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals(watch: Watch) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP stop the study, in the main thread; elsewhere nothing is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: Any) -> None:
        if watch.reason == "signal":
            for other, handler in before.items():
                signal.signal(other, handler)
        watch.stop("signal")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_kept(context: Any) -> Iterator[None]:
    """Enter a context (Ray's) that sets signal handlers of its own, and put back those before."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with context:
        if main:
            for number, handler in before.items():
                signal.signal(number, handler)
        yield
