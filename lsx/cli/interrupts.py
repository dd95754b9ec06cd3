"""Ctrl-C and SIGTERM, such that training stops between two steps and nothing is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nlsx: stopping after this step; again to stop at once\n"


class Stopped(KeyboardInterrupt):
    """Raised between two steps, where the trainer's state is whole."""


class Interrupts:
    """Signal handlers while it is entered; those before are put back.

    Outside of :meth:`between_steps`, a signal raises KeyboardInterrupt at once. Inside, the first one only asks, and
    :meth:`check` raises; the second one raises at once. Outside of the main thread, where Python allows no handlers,
    it does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._gentle = self._asked = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Inside, signals wait for the next :meth:`check`; one that came after the last check raises on leaving."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False
        self.check()

    def check(self, *_: object) -> None:
        """Raise :class:`Stopped` if a signal came; fits as a trainer's pulse."""
        if self._asked:
            self._asked = False
            raise Stopped

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._gentle or self._asked:
            raise KeyboardInterrupt
        self._asked = True
        os.write(2, NOTICE)  # a print may be interrupted by itself
