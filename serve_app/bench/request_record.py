"""A request and what came back, while it runs and when it has been read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
NO_NUMBERS: Numbers = np.zeros(0, np.int64)
# How a request can fail on its way; a failed status and an error event are named by what they say.
RESET, TIMEOUT, TRUNCATED, REFUSED, MALFORMED = "reset", "timeout", "truncated", "refused", "malformed"


@dataclass(slots=True)
class Raw:
    """What is noted while the clock counts: times of one monotonic clock in ns, and bytes.

    `stamps[i]` is when `pieces[i]` of the body was received.
    """

    request_id: str
    due_ns: int
    sent_ns: int = 0
    end_ns: int = 0
    status: int = 0
    is_complete: bool = False
    failure: str | None = None
    message: str | None = None
    retry_after: bytes | None = None
    stamps: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class RequestRecord:
    """A finished request. Times are of one monotonic clock, in ns.

    `start_ns` is when the request was due, which in a closed loop is when it was sent. The arrays have one
    entry for each receipt that brought content: when, how many characters, how many events. `error` is the
    kind of failure, None for a complete answer. Token counts are the service's, None where it gave none.
    `retry_after_s` is what a refusal says in `Retry-After`, None where that is missing or no number.
    """

    request_id: str
    start_ns: int
    sent_ns: int
    end_ns: int
    status: int
    error: str | None = None
    message: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    retry_after_s: float | None = None
    arrivals_ns: Numbers = field(default_factory=lambda: NO_NUMBERS)
    num_chars: Numbers = field(default_factory=lambda: NO_NUMBERS)
    num_events: Numbers = field(default_factory=lambda: NO_NUMBERS)

    @property
    def num_chunks(self) -> int:
        """Events that carried content."""
        return int(self.num_events.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer: the service's count, else the chunks."""
        return self.num_chunks if self.completion_tokens is None else self.completion_tokens

    @property
    def e2e_s(self) -> float:
        """From the start to the last byte."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def ttft_s(self) -> float | None:
        """From the start to the first content; None when there was none."""
        return (int(self.arrivals_ns[0]) - self.start_ns) / 1e9 if len(self.arrivals_ns) else None

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first; None for less than two tokens."""
        if self.ttft_s is None or self.num_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.num_tokens - 1)

    @property
    def gaps_s(self) -> npt.NDArray[np.float64]:
        """Between each two consecutive chunks with content; 0 within one receipt."""
        return np.diff(np.repeat(self.arrivals_ns, self.num_events)) / 1e9

    def trace(self, round_number: int) -> dict[str, Any]:
        """Returns the line of a trace."""
        return {
            "request_id": self.request_id,
            "response_id": self.response_id,
            "round": round_number,
            "start_ns": self.start_ns,
            "sent_ns": self.sent_ns,
            "end_ns": self.end_ns,
            "status": self.status,
            "error": self.error,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "arrivals": np.stack([self.arrivals_ns, self.num_chars, self.num_events], 1).tolist(),
        }
