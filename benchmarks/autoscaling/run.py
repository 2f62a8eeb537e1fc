"""What happened to the requests and replicas of a run, and the figures that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.autoscaling.parameters import Parameters
from benchmarks.autoscaling.policies import Policy
from benchmarks.autoscaling.speed import PROMPT_TOKENS, prefill_s
from benchmarks.autoscaling.traces import HOUR_S, Trace

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The service at one moment. `counted` is the number of requests as Serve's last decision averaged it."""

    time_s: float
    ready: int
    starting: int
    draining: int
    queued: int
    running: int
    counted: float


@dataclass
class Run:
    """A trace under a policy."""

    trace: Trace
    policy: Policy
    parameters: Parameters
    samples: list[Sample] = field(default_factory=list)
    # Time, replicas before, replicas after.
    scalings: list[tuple[float, int, int]] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    started_s: dict[int, float] = field(default_factory=dict)
    finished_s: dict[int, float] = field(default_factory=dict)
    gpu_s: float = 0.0

    def start(self, request: int, now_s: float) -> None:
        """A replica has taken a request."""
        self.started_s[request] = now_s

    def finish(self, request: int, now_s: float) -> None:
        """Its last token is there."""
        self.finished_s[request] = now_s

    def refuse(self, request: int, now_s: float, why: str) -> None:
        """It gets a 429 instead."""
        assert request not in self.started_s
        self.refusals[why] = self.refusals.get(why, 0) + 1

    def scale(self, now_s: float, before: int, after: int) -> None:
        """Serve asks for another number of replicas."""
        self.scalings.append((now_s, before, after))

    def add_replica(self, created_s: float, gone_s: float) -> None:
        """A replica held its GPU from start to end; what lies outside the trace does not count."""
        self.gpu_s += max(0.0, min(gone_s, self.trace.duration_s) - max(created_s, 0.0))

    def ttft_s(self) -> tuple[Floats, Floats]:
        """Returns when each served request arrived, and its time to first token: wait and prefill."""
        requests = sorted(self.started_s)
        arrivals = np.array([self.trace.arrivals_s[request] for request in requests])
        started = np.array([self.started_s[request] for request in requests])
        return arrivals, started - arrivals + prefill_s(PROMPT_TOKENS)

    def figures(self) -> dict[str, Any]:
        """Returns what is compared."""
        offered = len(self.trace.arrivals_s)
        served, refused = len(self.started_s), sum(self.refusals.values())
        _, ttft_s = self.ttft_s()
        end_s = self.trace.duration_s
        busy_s = math.fsum(
            max(0.0, min(self.finished_s[request], end_s) - start_s)
            for request, start_s in self.started_s.items()
        )
        ups = sum(after > before for _, before, after in self.scalings)
        return {
            "offered": offered,
            "served": served,
            "refused_share": round(refused / offered, 4) if offered else 0.0,
            "refused": dict(sorted(self.refusals.items())),
            "ttft_s": {
                f"p{percent}": round(float(np.percentile(ttft_s, percent)), 2) if served else None
                for percent in (50, 95, 99)
            },
            "gpu_hours": round(self.gpu_s / HOUR_S, 2),
            "utilisation": round(busy_s / (self.gpu_s * self.parameters.cap), 3) if self.gpu_s else 0.0,
            "scalings": {"up": ups, "down": len(self.scalings) - ups},
            "most_replicas": max((s.ready + s.starting for s in self.samples), default=0),
        }
