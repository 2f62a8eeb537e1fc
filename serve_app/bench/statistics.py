"""Figures from records. No input or output, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.bench.load import Slo
from serve_app.bench.request_record import RequestRecord


@dataclass(frozen=True)
class Distribution:
    """Of values in one unit; percentiles interpolate between the two nearest."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float] | npt.NDArray[np.float64]) -> Distribution | None:
        """Returns the distribution; None of no values."""
        array = np.asarray(values if isinstance(values, np.ndarray) else list(values), np.float64)
        if not len(array):
            return None
        p50, p90, p99 = np.percentile(array, [50, 90, 99]).tolist()
        return cls(len(array), float(array.mean()), p50, p90, p99, float(array.max()))


@dataclass(frozen=True)
class Goodput:
    """Requests that kept all demands: a second, and of all that were sent."""

    requests_per_s: float
    share: float


def is_good(record: RequestRecord, slo: Slo) -> bool:
    """Whether the request succeeded within the demands; what it has no value for, it keeps."""
    if record.error is not None:
        return False
    pairs = (
        (record.ttft_s, slo.ttft_s),
        (record.tpot_s, slo.tpot_s),
        (record.e2e_s, slo.e2e_s),
    )
    return all(value is None or limit is None or value <= limit for value, limit in pairs)


def goodput(records: Sequence[RequestRecord], slo: Slo, duration_s: float) -> Goodput | None:
    """Returns the goodput; None without demands or requests."""
    if not slo or not records:
        return None
    good = sum(is_good(record, slo) for record in records)
    return Goodput(good / duration_s, good / len(records))


def errors(records: Iterable[RequestRecord]) -> dict[str, int]:
    """Returns the number of failures by kind, the most frequent first."""
    return dict(Counter(record.error for record in records if record.error).most_common())


def tokens_from(records: Sequence[RequestRecord]) -> str:
    """Returns what tokens were counted by: "usage", "chunks", or "usage and chunks" where they differ."""
    kinds = {"chunks" if record.completion_tokens is None else "usage" for record in records}
    return " and ".join(sorted(kinds, reverse=True))


def arrivals(records: Iterable[RequestRecord]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns when content arrived, in ns, and its tokens: those of a request, spread over its chunks."""
    times: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    tokens: list[npt.NDArray[np.float64]] = [np.zeros(0, np.float64)]
    for record in records:
        if record.num_chunks:
            times.append(record.arrivals_ns)
            each = record.num_tokens / record.num_chunks
            tokens.append(record.num_events.astype(np.float64) * each)
        elif record.num_tokens:  # an answer that came at once
            times.append(np.array([record.end_ns]))
            tokens.append(np.array([float(record.num_tokens)]))
    return np.concatenate(times), np.concatenate(tokens)


def rate_within(records: Iterable[RequestRecord], begin_ns: int, end_ns: int) -> float | None:
    """Returns the tokens a second that arrived between two times; None where there is no time between."""
    if end_ns <= begin_ns:
        return None
    times, tokens = arrivals(records)
    within = (times >= begin_ns) & (times < end_ns)
    return float(tokens[within].sum()) / ((end_ns - begin_ns) / 1e9)
