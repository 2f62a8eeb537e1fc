"""Repairs of answers, for those who run the service: a count by kind and API, and a line in the log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

logger = logging.getLogger("ray.serve")

# Not more often than this: a model that writes broken headers does so in many answers.
LOG_INTERVAL_S = 60.0


class RepairReport:
    """Takes note of repairs. No text of an answer is in it."""

    def __init__(
        self, count: Callable[[str, str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`count` adds to a metric: the API, the kind of repair, how often."""
        self._count, self._clock = count, clock
        self._since_log: Counter[str] = Counter()
        self._logged_at = float("-inf")

    def add(self, api: str, repairs: Iterable[tuple[str, int]]) -> None:
        """Counts what was repaired in one answer of `api`: kinds, and how often each."""
        for kind, number in repairs:
            if not number:
                continue
            self._count(api, kind, number)
            self._since_log[f"{api} {kind}"] += number
        now = self._clock()
        if self._since_log and now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            said = ", ".join(f"{name} {number}" for name, number in self._since_log.most_common())
            self._since_log.clear()
            logger.warning(
                "the model's answers needed repairs (docs/api.md explains the kinds; the next line comes "
                "in a minute at the earliest): %s",
                said,
            )
