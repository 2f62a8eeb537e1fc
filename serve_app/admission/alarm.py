"""A timer that follows a time which changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Alarm:
    """Calls `ring` when it is due: at what `next_time` says, in seconds of `time.monotonic`; None is never.

    Must be made in a running event loop.
    """

    def __init__(self, next_time: Callable[[], float | None], ring: Callable[[], None]) -> None:
        self._next_time, self._ring = next_time, ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def update(self) -> None:
        """To be called when the time may have changed."""
        due = self._next_time()
        if due is None:
            self.cancel()
        # One that is set too early rings, finds nothing to do and is set anew: cheaper than to move it often.
        elif self._timer is None or due < self._due:
            self.cancel()
            self._due = due
            self._timer = self._loop.call_at(self._loop.time() + due - time.monotonic(), self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self._ring()
        self.update()

    def cancel(self) -> None:
        """Does not ring any more, until `update`."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
