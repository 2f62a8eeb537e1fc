"""An engine replica: requests that share its speed, from the first to the last of their tokens."""

from __future__ import annotations

import enum
import heapq
import math

from ray.serve._private.common import ReplicaID

from benchmarks.autoscaling.autoscaler import DEPLOYMENT
from benchmarks.autoscaling.speed import Speed


class Phase(enum.Enum):
    """A replica that is gone is no longer in the service's list."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Replica:
    """`done_s` is when the next of its requests is finished if nothing else happens; infinity without any."""

    def __init__(self, number: int, now_s: float, ready_s: float, speed: Speed, num_handles: int) -> None:
        self.id = ReplicaID(f"replica-{number}", DEPLOYMENT)
        self.number = number
        self.phase = Phase.STARTING
        self.created_s = now_s
        self.ready_s = ready_s
        self.done_s = math.inf
        self.by_handle = [0] * num_handles
        self._seconds_per_token = speed.seconds_per_token
        # Tokens that a request has which was here all the time; each ends when this has grown by its length.
        self._generated = 0.0
        self._since_s = now_s
        self._ends: list[tuple[float, int]] = []

    @property
    def running(self) -> int:
        """Requests that it generates for."""
        return len(self._ends)

    def start(self, now_s: float, request: int, tokens: int, handle: int) -> None:
        """Takes a request."""
        self._advance(now_s)
        heapq.heappush(self._ends, (self._generated + tokens, request))
        self.by_handle[handle] += 1
        self._plan()

    def finish(self) -> int:
        """Returns the request that ends at `done_s`."""
        self._since_s = self.done_s
        self._generated, request = heapq.heappop(self._ends)
        self._plan()
        return request

    def _advance(self, now_s: float) -> None:
        if running := len(self._ends):
            self._generated += (now_s - self._since_s) / self._seconds_per_token[running - 1]
        self._since_s = now_s

    def _plan(self) -> None:
        if running := len(self._ends):
            left = max(0.0, self._ends[0][0] - self._generated)
            self.done_s = self._since_s + left * self._seconds_per_token[running - 1]
        else:
            self.done_s = math.inf
