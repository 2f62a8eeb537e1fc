"""A timer that follows a time which changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class DeadlineTimer:
    """Calls `on_due` when it is due: at what `next_time` says, in seconds of `time.monotonic`; None is never.

    Must be made in a running event loop.
    """

    def __init__(self, next_time: Callable[[], float | None], on_due: Callable[[], None]) -> None:
        self._next_time, self._on_due = next_time, on_due
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    def update(self) -> None:
        """To be called when the time may have changed."""
        due = self._next_time()
        if due is None:
            self.cancel()
        # One that is set too early fires, finds nothing to do and is set anew: cheaper than to move it often.
        elif self._handle is None or due < self._due:
            self.cancel()
            self._due = due
            self._handle = self._loop.call_at(self._loop.time() + due - time.monotonic(), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._on_due()
        self.update()

    def cancel(self) -> None:
        """Does not fire any more, until `update`."""
        if self._handle:
            self._handle.cancel()
            self._handle = None
