"""A clock that tests set, in place of the module `time`."""

from __future__ import annotations

import time


class ManualClock:
    """Nothing takes time but `sleep`, which takes exactly what it says and does not wait."""

    def __init__(self) -> None:
        self._begin_s = time.time()
        self._now_s = 0.0

    def perf_counter(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds

    def time(self) -> float:
        """Seconds since 1970."""
        return self._begin_s + self._now_s
