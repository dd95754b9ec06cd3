"""Why the loop over trials must end, if it must; and which trials are out there until then."""

import time
from collections.abc import Callable
from typing import Any, Literal

Reason = Literal["signal", "time"]
GRACE = 20.0
"""Seconds for running trials to checkpoint and return when the study stops."""


class Halt(BaseException):
    """Ends Tune's loop from one of its safe points; no ``except Exception`` of Tune's may delay it."""


class Watch:
    """The state of Tune's loop.

    An error inside of a Tune callback would be blamed on a trial or lost: it is kept here and raised between two steps.
    When the study must stop, its trials are told so and given some time to checkpoint.

    Args:
        grace: seconds for that.

    Attributes:
        fault: the first error in a callback.
        reason: why the study stops; None while it goes on.
        live: numbers of the trials that Tune has.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.fault: Exception | None = None
        self.reason: Reason | None = None
        self.live: set[int] = set()
        self._grace, self._deadline = grace, 0.0
        self._told = False

    def stop(self, reason: Reason) -> None:
        """Stop the study; the second time at once. Safe in a signal's handler."""
        self._deadline = 0.0 if self.reason else time.monotonic() + self._grace
        self.reason = self.reason or reason

    def rest(self) -> None:
        """The loop has ended because time is up; what follows may still be interrupted."""
        self.live.clear()
        self.reason, self._told = None, False

    @property
    def over(self) -> bool:
        """Whether the loop must end now."""
        stopped = self.reason is not None and (not self.live or time.monotonic() >= self._deadline)
        return self.fault is not None or stopped

    def check(self) -> None:
        """Raises Halt when the loop must end now."""
        if self.over:
            raise Halt

    def tell(self, ask: Callable[[], None]) -> None:
        """Tell the trials, once, that the study stops."""
        if self.reason is not None and not self._told:
            self._told = True
            self.run(ask)

    def run(self, action: Callable[[], Any], otherwise: Any = None) -> Any:
        """Do something unless the loop must end; an error ends it."""
        if self.over:
            return otherwise
        try:
            return action()
        except Exception as error:
            self.fault = error
            return otherwise
