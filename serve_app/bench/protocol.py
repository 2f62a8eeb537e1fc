"""What the program and its workers tell each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.bench.load import Load
from serve_app.bench.request_record import RequestRecord
from serve_app.bench.target import Target


@dataclass(frozen=True)
class Setting:
    """The first message to a worker: what stays the same for all rounds."""

    load: Load
    model: str
    target: Target
    part: int
    num_parts: int


@dataclass(frozen=True)
class Prepare:
    """A round of a closed loop (`concurrency`) or an open one (`due_ns`, from the round's start)."""

    seed: int
    concurrency: int
    requests: int | None
    end_after_s: float | None
    due_ns: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Ready:
    """The worker's connections are open."""


@dataclass(frozen=True)
class Start:
    """When all workers begin, by the machine's monotonic clock."""

    start_ns: int


@dataclass(frozen=True)
class Progress:
    """How far a worker is."""

    num_open: int
    num_done: int
    num_failed: int


@dataclass(frozen=True)
class Share:
    """What a worker did in a round.

    `cpu_s` and `wall_s` are its own, until the last answer; `last_sent_ns` is None where it sent nothing.
    """

    records: list[RequestRecord]
    cpu_s: float
    wall_s: float
    lags_s: npt.NDArray[np.float64]
    last_sent_ns: int | None
