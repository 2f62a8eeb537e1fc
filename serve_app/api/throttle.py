"""A cap on how often something may happen: the first time at once, then not sooner than an interval later."""

from __future__ import annotations

import asyncio


class Throttle:
    """Holds back one stream's chunks. Must be used in one event loop."""

    def __init__(self, max_per_second: float | None) -> None:
        """None for no cap: `is_set` tells, so that who is in a hurry need not wait for `wait`."""
        self.is_set = max_per_second is not None
        self._interval_s = 1 / max_per_second if max_per_second else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Returns when it may happen again."""
        clock = asyncio.get_running_loop().time
        if (delay := self._next - clock()) > 0:
            await asyncio.sleep(delay)
        self._next = clock() + self._interval_s
