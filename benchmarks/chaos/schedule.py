"""When which fault comes: drawn from a seed, so that a drill can be run again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.chaos.faults import Kind

# The load is up by then, and all streams have some of their tokens.
FIRST_AFTER_S = 15.0
# How much of its turn a fault may be late by: the moment is to be random, and the turn to be long enough.
JITTER = 0.4


@dataclass(frozen=True)
class Planned:
    """A fault to come. `pick` says which of the targets that there will be, as a share of their number."""

    at_s: float
    kind: Kind
    pick: float
    lasts_s: float | None


def schedule(seed: int, duration_s: float, spacing_s: float, kinds: Sequence[Kind]) -> list[Planned]:
    """Returns as many faults as fit, `spacing_s` apart on average; each kind once before any comes twice."""
    if not kinds:
        return []
    random_of = random.Random(seed)
    planned: list[Planned] = []
    turn: list[Kind] = []
    for number in range(int((duration_s - FIRST_AFTER_S) / spacing_s)):
        if not turn:
            turn = random_of.sample(list(kinds), len(kinds))
        kind = turn.pop()
        at_s = FIRST_AFTER_S + spacing_s * (number + JITTER * random_of.random())
        lasts_s = random_of.uniform(*kind.lasts_s) if kind.lasts_s else None
        planned.append(Planned(at_s, kind, random_of.random(), lasts_s))
    return planned
