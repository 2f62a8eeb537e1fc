"""What a run found, and the same as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serve_app.bench import statistics
from serve_app.bench.load import Load
from serve_app.bench.protocol import Share
from serve_app.bench.request_record import RequestRecord
from serve_app.bench.statistics import Distribution, Goodput

# Beyond these the figures may be the generator's and not the service's.
MAX_CPU_SHARE = 0.8
MAX_CEILING_SHARE = 0.5
# At the 99th percentile. A generator that other processes keep from its core is late without being busy.
MAX_LAG_S = 0.01


@dataclass(frozen=True)
class Ceiling:
    """What one worker can take on a core that does nothing else, when each chunk is received alone.

    Chunks that are received together cost less; `chunks_per_receipt` shows that the measurement had few.
    """

    chunks_per_cpu_s: float
    cpu_us_per_chunk: float
    chunks_per_receipt: float


@dataclass(frozen=True)
class Generator:
    """What the load cost the generator: of each worker its share of a core; lags and delays in seconds.

    `loop_lag_s` is by how much the loop's own timers were late, to within a millisecond. `send_delay_s` is
    from when a request was due to its first byte. A receipt is what one read of a socket brought.
    """

    cpu_shares: tuple[float, ...]
    chunks_per_s: float
    receipts_per_s: float
    loop_lag_s: Distribution | None
    send_delay_s: Distribution | None


@dataclass(frozen=True)
class Round:
    """Figures of one round, in seconds and per second, over successful requests unless they say otherwise.

    Rates are over `duration_s`, from the start to the last answer. `output_tokens_per_s_at_full_load` leaves
    out the end of a closed loop, in which no more requests are sent; None where that is all there is.
    """

    seed: int
    start_ns: int
    duration_s: float
    num_requests: int
    num_completed: int
    num_without_content: int
    errors: dict[str, int]  # of all requests, by kind
    error_messages: dict[str, str]  # one of each kind
    ttft_s: Distribution | None
    itl_s: Distribution | None
    tpot_s: Distribution | None
    e2e_s: Distribution | None
    requests_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_at_full_load: float | None
    tokens_from: str
    prompt_tokens_mean: float | None
    output_tokens: int
    output_tokens_mean: float | None
    tokens_per_chunk: float | None
    goodput: Goodput | None
    generator: Generator
    warnings: tuple[str, ...]
    records: tuple[RequestRecord, ...]

    @classmethod
    def of(
        cls, load: Load, seed: int, start_ns: int, shares: Sequence[Share], ceiling: Ceiling | None
    ) -> Round:
        """Returns the figures of what the workers did."""
        records = sorted((one for share in shares for one in share.records), key=lambda one: one.start_ns)
        good = [one for one in records if one.error is None]
        duration_s = max((one.end_ns - start_ns for one in records), default=1) / 1e9
        num_tokens = sum(one.num_tokens for one in good)
        num_chunks = sum(one.num_chunks for one in good)
        prompts = [one.prompt_tokens for one in good if one.prompt_tokens is not None]
        messages = {one.error: one.message or "" for one in records if one.error}
        last_sent = [share.last_sent_ns for share in shares if share.last_sent_ns is not None]
        generator = _generator(shares, records, duration_s)
        num_without_content = sum(not one.num_chunks for one in good) if load.stream else 0
        return cls(
            seed=seed,
            start_ns=start_ns,
            duration_s=duration_s,
            num_requests=len(records),
            num_completed=len(good),
            num_without_content=num_without_content,
            errors=statistics.errors(records),
            error_messages=messages,
            ttft_s=Distribution.of(one.ttft_s for one in good if one.ttft_s is not None),
            itl_s=Distribution.of(np.concatenate([np.zeros(0), *(one.gaps_s for one in good)])),
            tpot_s=Distribution.of(one.tpot_s for one in good if one.tpot_s is not None),
            e2e_s=Distribution.of(one.e2e_s for one in good),
            requests_per_s=len(good) / duration_s,
            output_tokens_per_s=num_tokens / duration_s,
            output_tokens_per_s_at_full_load=statistics.rate_within(good, start_ns, min(last_sent))
            if load.concurrency and last_sent
            else None,
            tokens_from=statistics.tokens_from(good),
            prompt_tokens_mean=float(np.mean(prompts)) if prompts else None,
            output_tokens=num_tokens,
            output_tokens_mean=num_tokens / len(good) if good else None,
            tokens_per_chunk=num_tokens / num_chunks if num_chunks else None,
            goodput=statistics.goodput(records, load.slo, duration_s),
            generator=generator,
            warnings=tuple(_warnings(generator, ceiling, num_without_content)),
            records=tuple(records),
        )

    def data(self) -> dict[str, Any]:
        """Returns the figures without the records."""
        plain = {name: value for name, value in vars(self).items() if name != "records"}
        return {name: asdict(value) if _is_record(value) else value for name, value in plain.items()}


@dataclass(frozen=True)
class Result:
    """All rounds of a load. `date` is UTC in ISO 8601; `load` is as it was sent, with the model's name."""

    load: Load
    model: str
    processes: int
    date: str
    versions: dict[str, str]
    ceiling: Ceiling | None
    rounds: tuple[Round, ...]

    @property
    def has_only_failures(self) -> bool:
        """Whether no request at all succeeded."""
        return not any(one.num_completed for one in self.rounds)

    def data(self) -> dict[str, Any]:
        """Returns everything but the records as plain data, for JSON."""
        load = {name: value for name, value in vars(self.load).items() if name not in ("bodies", "trace")}
        load |= {"model": self.model, "slo": asdict(self.load.slo), "extra_body": dict(self.load.extra_body)}
        return {
            "date": self.date,
            "versions": self.versions,
            "load": load | {"num_bodies": len(self.load.bodies), "processes": self.processes},
            "ceiling": asdict(self.ceiling) if self.ceiling else None,
            "rounds": [one.data() for one in self.rounds],
        }


def _generator(shares: Sequence[Share], records: Sequence[RequestRecord], duration_s: float) -> Generator:
    num_chunks = sum(one.num_chunks for one in records)
    return Generator(
        cpu_shares=tuple(share.cpu_s / share.wall_s for share in shares if share.wall_s > 0),
        chunks_per_s=num_chunks / duration_s,
        receipts_per_s=sum(len(one.arrivals_ns) for one in records) / duration_s,
        loop_lag_s=Distribution.of(np.concatenate([np.zeros(0), *(share.lags_s for share in shares)])),
        send_delay_s=Distribution.of((one.sent_ns - one.start_ns) / 1e9 for one in records if one.sent_ns),
    )


def _warnings(generator: Generator, ceiling: Ceiling | None, num_without_content: int) -> list[str]:
    warnings = []
    busiest = max(generator.cpu_shares, default=0.0)
    if busiest > MAX_CPU_SHARE:
        warnings.append(f"the generator was the bottleneck: a worker used {busiest:.0%} of its core")
    limit = ceiling.chunks_per_cpu_s * len(generator.cpu_shares) if ceiling else float("inf")
    if generator.receipts_per_s > MAX_CEILING_SHARE * limit:
        taken = generator.receipts_per_s / limit
        warnings.append(f"the generator was near its limit: {taken:.0%} of what it can receive")
    if warnings:
        warnings.append("more worker processes (--processes) take more")
    if generator.loop_lag_s and generator.loop_lag_s.p99 > MAX_LAG_S:
        lag_ms = generator.loop_lag_s.p99 * 1e3
        warnings.append(f"the generator was kept waiting for its core: it was {lag_ms:.0f} ms late (p99)")
    if num_without_content:
        warnings.append(f"{num_without_content} answers had no content; they have no time to first token")
    return warnings


def _is_record(value: object) -> bool:
    return isinstance(value, Distribution | Goodput | Generator)
