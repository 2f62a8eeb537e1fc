"""How fast requests are served, as measured, and when a refused one should come back."""

from __future__ import annotations

# The mean looks back over about this many sequences: enough to be steady, few enough to follow the load.
WINDOW = 64
# OpenAI's client waits as it is told up to this long; told more, it comes back after seconds.
MAX_RETRY_AFTER_S = 60.0
MIN_RETRY_AFTER_S = 1.0


class ServiceTime:
    """Mean time that a sequence keeps its slot. None until one has ended."""

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self._count = 0

    def add(self, seconds: float) -> None:
        """Takes a sequence that has ended into account."""
        self._count = min(self._count + 1, WINDOW)
        mean = self.mean_s or 0.0
        self.mean_s = mean + (seconds - mean) / self._count

    def wait_s(self, num_before: int, num_slots: int) -> float | None:
        """Time until `num_before` that wait have begun, when all slots are taken; None if not known.

        Little's law: `num_slots` sequences of `mean_s` each end at a rate of `num_slots / mean_s`.
        """
        if self.mean_s is None or not num_slots:
            return None
        return num_before * self.mean_s / num_slots


class RetrySchedule:
    """Tells those who are refused when to come back, each a later time: together they would be too many."""

    def __init__(self) -> None:
        self._last = 0.0

    def next(self, now: float, wait_s: float | None, num_sequences: int, per_sequence_s: float) -> float:
        """Seconds until there will be room: after those who wait (`wait_s`) and those told before."""
        if wait_s is None:
            return MIN_RETRY_AFTER_S
        latest = now + MAX_RETRY_AFTER_S
        self._last = min(latest, max(self._last, now + wait_s) + num_sequences * per_sequence_s)
        return max(MIN_RETRY_AFTER_S, self._last - now)
