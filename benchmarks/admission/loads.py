"""Loads on a service of known capacity: as much as it takes, ten times that, a few urgent requests."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serve_app import bench
from serve_app.bench import Distribution, Load, RequestRecord

# Rendering takes milliseconds of CPU for a long prompt, which is not what is measured here.
PROMPT_TOKENS = 16
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of a load's requests. Times in seconds."""

    num_requests: int
    statuses: dict[str, int]
    served_per_s: float
    ttft_s: Distribution | None
    refused_after_s: Distribution | None
    retry_after_s: Distribution | None
    num_refused_without_retry_after: int
    cut: tuple[str, ...]
    """Of those that got a status 200, the errors."""

    @classmethod
    def of(cls, records: tuple[RequestRecord, ...], seconds: float) -> Outcome:
        """`served_per_s` is over `seconds`: the time in which requests were sent."""
        served = [one for one in records if one.error is None]
        refused = [one for one in records if one.status in (429, 503)]
        begin = min(one.start_ns for one in records)
        in_time = [one for one in served if (one.end_ns - begin) / 1e9 <= seconds]
        told = [one.retry_after_s for one in refused if one.retry_after_s is not None]
        return cls(
            num_requests=len(records),
            statuses={str(status): n for status, n in Counter(one.status for one in records).items()},
            served_per_s=len(in_time) / seconds,
            ttft_s=Distribution.of(one.ttft_s for one in served if one.ttft_s is not None),
            refused_after_s=Distribution.of(one.e2e_s for one in refused),
            retry_after_s=Distribution.of(told),
            num_refused_without_retry_after=len(refused) - len(told),
            cut=tuple(f"{one.error}: {one.message}" for one in records if one.status == 200 and one.error),
        )


def load(url: str, seconds: float, num_tokens: int, *, tier: str = "default", **how_much: float) -> Outcome:
    """Sends streamed chats of `num_tokens`; `how_much` is `rate` (open loop) or `concurrency` (closed)."""
    result = bench.run(
        Load(
            url=url,
            duration_s=seconds,
            input_tokens=PROMPT_TOKENS,
            output_tokens=num_tokens,
            extra_body={"service_tier": tier},
            processes=1,
            timeout_s=TIMEOUT_S,
            ceiling=False,
            rate=how_much.get("rate"),
            concurrency=int(how_much["concurrency"]) if "concurrency" in how_much else None,
        )
    )
    [only] = result.rounds
    return Outcome.of(only.records, seconds)


def beside(
    url: str, seconds: float, num_tokens: int, *, flood_rate: float, rate: float
) -> tuple[Outcome, Outcome]:
    """A flood of flex requests, and a few of the priority tier beside it. Returns both."""
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(load, url, seconds, num_tokens, tier="flex", rate=flood_rate)
        urgent = load(url, seconds, num_tokens, tier="priority", rate=rate)
        return flood.result(), urgent
