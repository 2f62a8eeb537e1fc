"""When requests arrive and how long their answers are: Poisson arrivals at a changing rate, from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MINUTE_S, HOUR_S = 60.0, 3600.0
# The mean is that of the one load which was measured long enough (docs/performance.md).
ANSWER_TOKENS = 1024
# Most answers are shorter than the mean and a few are four times as long: no measurement, a common shape.
SIGMA = 0.7
MIN_ANSWER_TOKENS, MAX_ANSWER_TOKENS = 16, 8192
BURST_FACTOR = 10

Rate = Callable[[float], float]


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their arrival."""

    name: str
    what: str
    duration_s: float
    initial_rate: float
    arrivals_s: tuple[float, ...]
    answer_tokens: tuple[int, ...]


def make(name: str, what: str, duration_s: float, rate: Rate, most: float, seed: int, mean: int) -> Trace:
    """Returns a trace: arrivals at the rate `most`, each kept with the share that `rate` is of it."""
    generator = np.random.default_rng(seed)
    number = generator.poisson(most * duration_s)
    times = np.sort(generator.uniform(0, duration_s, number))
    kept = generator.uniform(0, most, number) < np.array([rate(time) for time in times.tolist()])
    times = times[kept]
    location = math.log(mean) - SIGMA**2 / 2
    tokens = generator.lognormal(location, SIGMA, len(times)).round()
    answers = tokens.clip(MIN_ANSWER_TOKENS, MAX_ANSWER_TOKENS).astype(int)
    return Trace(name, what, duration_s, rate(0), tuple(times.tolist()), tuple(answers.tolist()))


def all_traces(replica_rate: float, seed: int, answer_tokens: int = ANSWER_TOKENS) -> list[Trace]:
    """Returns the traces. `replica_rate`: requests a second that one full replica completes."""

    def trace(name: str, what: str, duration_s: float, load: Rate, most: float) -> Trace:
        def rate(time_s: float) -> float:
            return load(time_s) * replica_rate

        return make(name, what, duration_s, rate, most * replica_rate, seed, answer_tokens)

    return [
        trace("steady", "the load of 2.5 full replicas, for an hour", HOUR_S, lambda time: 2.5, 2.5),
        trace("burst", "0.5, and ten times that for 10 minutes, twice", 1.5 * HOUR_S, burst, 5),
        trace("ramp", "from 0.5 to 6 in 30 minutes, 10 there, back in 20", HOUR_S, ramp, 6),
        trace("on/off", "3 for 10 minutes, nothing for 20, three times", 1.5 * HOUR_S, on_off, 3),
        trace("daily", "a day in two hours: 0.3 at night, 5 at noon", 2 * HOUR_S, daily, 5),
    ]


def ramp(time_s: float) -> float:
    """Returns the load of the ramp in full replicas, as the others do of theirs."""
    minutes = time_s / MINUTE_S
    return float(np.interp(minutes, [0, 30, 40, 60], [0.5, 6, 6, 0.5]))


def daily(time_s: float) -> float:
    """A cosine, its low at both ends."""
    return 2.65 - 2.35 * math.cos(2 * math.pi * time_s / (2 * HOUR_S))


def burst(time_s: float) -> float:
    """At minutes 15 and 55."""
    minutes = time_s / MINUTE_S
    return 0.5 * BURST_FACTOR if 15 <= minutes < 25 or 55 <= minutes < 65 else 0.5


def on_off(time_s: float) -> float:
    """On first, so that every time off is followed by one that shows what it did."""
    return 3.0 if time_s % (30 * MINUTE_S) < 10 * MINUTE_S else 0.0
