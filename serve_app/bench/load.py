"""What to send: the shape of a load, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# What the duration is when neither it nor a number of requests is given.
DEFAULT_DURATION_S = 30.0


class BenchError(Exception):
    """The load is not possible or the service cannot be asked; the text is one line for a person."""


@dataclass(frozen=True, kw_only=True)
class Slo:
    """What a request must keep to count as good, in seconds; None is no demand."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __bool__(self) -> bool:
        return (self.ttft_s, self.tpot_s, self.e2e_s) != (None, None, None)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load on one service. Raises `BenchError` where its parts do not fit together.

    Closed loop with `concurrency`: so many requests are open at any time. Open loop with `rate`, in requests
    a second: they are sent when they are due, however many are open. Either ends after `requests`, or, after
    `duration_s`, sends no more and waits for those that are open.
    """

    url: str
    model: str | None = None  # None: the first that the service lists
    api: Literal["chat", "completions"] = "chat"
    stream: bool = True
    concurrency: int | None = None
    rate: float | None = None
    requests: int | None = None
    duration_s: float | None = None
    input_tokens: int = 512
    output_tokens: int = 128
    exact_output: bool = True  # with vLLM's `ignore_eos` and `min_tokens`
    bodies: tuple[Mapping[str, Any], ...] = ()  # fragments that the requests take in turn
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None  # None: another one in every round
    rounds: int = 1
    warm_up: int = 0  # requests before the first round
    processes: int | None = None  # None: by the cores that are available
    timeout_s: float = 600.0  # of one request, from its first byte sent to its last received
    slo: Slo = Slo()
    ceiling: bool = True  # measure first what the generator itself can take
    trace: Path | None = None  # JSON lines, one a request

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise BenchError("give either a concurrency (closed loop) or a rate (open loop)")
        for name in ("concurrency", "requests", "input_tokens", "output_tokens", "rounds", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BenchError(f"{name} must be at least 1, not {value}")
        for name in ("rate", "duration_s", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BenchError(f"{name} must be more than 0, not {value}")
        if self.warm_up < 0:
            raise BenchError(f"warm_up must not be negative, but is {self.warm_up}")

    @property
    def end_after_s(self) -> float | None:
        """When sending stops; None when only the number of requests ends it."""
        if self.duration_s is None and self.requests is None:
            return DEFAULT_DURATION_S
        return self.duration_s
