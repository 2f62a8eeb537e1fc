"""The rule by which the defaults are chosen, and the candidates that it is applied to."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import product
from typing import Any

from benchmarks.autoscaling.policies import (
    DOWNSCALE_DELAYS_S,
    DOWNSCALING_FACTORS,
    SHARES,
    UPSCALE_DELAYS_S,
    Policy,
    candidate,
)

# Traces that change more slowly than a replica starts: nobody need notice that the service scales.
SLOW = "steady", "ramp", "daily"
MAX_SLOW_REFUSED, MAX_SLOW_TTFT_P99_S = 0.001, 1.0
# Where the load jumps, what comes before a replica has started is lost: in `burst` 7.2% if Serve asked for
# replicas at once. For 85 s the load of four of five full replicas, less what waits in the queue.
FAST = "burst", "on/off"
MAX_FAST_REFUSED = 0.10
# Nothing has to be scaled in `steady`: once in ten minutes is enough. `daily` goes from one replica to six
# and back, which is ten: twice that.
MAX_SCALINGS = {"steady": 6, "daily": 20}
# What counts as the same number of GPU-hours.
SAME_SHARE = 0.02
RULE = (
    f"of the candidates with at most {MAX_SLOW_REFUSED:.1%} refused and a TTFT p99 of at most "
    f"{MAX_SLOW_TTFT_P99_S:g} s in {', '.join(SLOW)}, at most {MAX_FAST_REFUSED:.0%} refused in "
    f"{' and '.join(FAST)}, at most {MAX_SCALINGS['steady']} scalings in steady and "
    f"{MAX_SCALINGS['daily']} in daily, with every seed: least GPU-hours over all traces; of those within "
    f"{SAME_SHARE:.0%} of them, fewest refused"
)
# Shares and ways down are compared at this upscale delay, then upscale delays with what was best.
FIRST_UPSCALE_DELAY_S = 10.0

Entry = dict[str, Any]


def entry(policy: Policy, figures: dict[str, dict[str, Any]]) -> Entry:
    """Returns a policy with its figures for each trace, as it stands in the results.

    Without GPU-hours if traces are missing, as they may where the rule refuses it anyway.
    """
    is_whole = figures.keys() >= {*SLOW, *FAST}
    return {
        "policy": asdict(policy),
        "gpu_hours": round(sum(one["gpu_hours"] for one in figures.values()), 2) if is_whole else None,
        "is_good": is_whole and all(is_allowed(*item) for item in figures.items()),
        "traces": figures,
    }


def is_allowed(trace: str, figures: dict[str, Any]) -> bool:
    """Whether the rule allows a policy with these figures for this trace."""
    if trace in FAST:
        return bool(figures["refused_share"] <= MAX_FAST_REFUSED)
    if sum(figures["scalings"].values()) > MAX_SCALINGS.get(trace, math.inf):
        return False
    waits = figures["ttft_s"]["p99"] > MAX_SLOW_TTFT_P99_S
    return not waits and bool(figures["refused_share"] <= MAX_SLOW_REFUSED)


def ranked(entries: list[Entry]) -> list[Entry]:
    """Returns the entries that the rule allows, the one that it chooses first."""
    left = sorted((one for one in entries if one["is_good"]), key=_gpu_hours)
    found: list[Entry] = []
    while left:
        limit = _gpu_hours(left[0]) * (1 + SAME_SHARE)
        chosen = min((one for one in left if _gpu_hours(one) <= limit), key=_refused)
        found.append(chosen)
        left.remove(chosen)
    return found


def _gpu_hours(one: Entry) -> float:
    return float(one["gpu_hours"])


def _refused(one: Entry) -> float:
    return sum(float(figures["refused_share"]) for figures in one["traces"].values())


def first_candidates() -> list[Policy]:
    """Returns those that decide on everything but the upscale delay."""
    return [
        candidate(share, FIRST_UPSCALE_DELAY_S, delay_s, factor)
        for share, delay_s, factor in product(SHARES, DOWNSCALE_DELAYS_S, DOWNSCALING_FACTORS)
    ]


def second_candidates(best: Policy) -> list[Policy]:
    """Returns those that decide on the upscale delay."""
    assert best.share is not None
    return [
        candidate(best.share, delay_s, best.downscale_delay_s, best.downscaling_factor)
        for delay_s in UPSCALE_DELAYS_S
    ]
