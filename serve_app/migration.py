"""Migration: a sequence that has lost its engine goes on in another, behind the tokens that have come.

Which errors mean that, how often and how long it is tried, and what operators are told of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.admission.protocol import Loss
from serve_app.errors import (
    EngineAbortedError,
    EngineLostError,
    EngineUnreachableError,
    IngressBlockedError,
    ServiceError,
    TokensLostError,
)

logger = logging.getLogger("ray.serve")

# The sequences of an engine that dies follow each other within milliseconds: one line for all of them.
LOG_DELAY_S = 1.0


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a sequence has to go on elsewhere."""

    name: str
    """As metric and log have it."""
    loss: Loss


CAUSES: dict[type[ServiceError], Cause] = {
    EngineLostError: Cause("died", Loss.DIED),
    EngineUnreachableError: Cause("unreachable", Loss.CUT_OFF),
    EngineAbortedError: Cause("aborted", Loss.CUT_OFF),
    IngressBlockedError: Cause("ingress_blocked", Loss.GAP),
    # Also where an engine has taken an ingress for dead that lives: it says how many tokens it has sent.
    TokensLostError: Cause("tokens_lost", Loss.GAP),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How often and for how long it is tried."""

    max_engines: int
    """Engines that may work on a sequence, the first one included; with 1 none goes on elsewhere."""
    max_wait_s: float
    """How long a sequence waits for a slot on another engine."""


class Report:
    """Counts sequences that go on elsewhere, and says so in the log. Must be used in one event loop."""

    def __init__(self, count: Callable[[str], None]) -> None:
        """`count` adds one to a metric, by the cause's name."""
        self._count = count
        self._since_log: Counter[str] = Counter()
        self._example: ServiceError | None = None

    def add(self, cause: Cause, error: ServiceError) -> None:
        """Takes note of one."""
        self._count(cause.name)
        if not self._since_log:
            self._example = error
            asyncio.get_running_loop().call_later(LOG_DELAY_S, self._log)
        self._since_log[cause.name] += 1

    def _log(self) -> None:
        counts = ", ".join(f"{name} {number}" for name, number in self._since_log.most_common())
        self._since_log.clear()
        logger.warning(
            "sequences have lost their engine and go on in another, behind what they have said: %s. The "
            "first of them: %s. No client notices more than a pause; the log of the engine replicas and "
            "`serve status` say what became of the engine",
            counts,
            (self._example.__cause__ if self._example else None) or self._example,
        )


def cause_of(error: ServiceError, num_lost: int) -> Cause | None:
    """Returns why the sequence that `error` has ended may go on elsewhere; None where it may not.

    `num_lost` engines have been lost before. Where tokens are lost again and again something is wrong between
    that engine and this ingress, whoever is to blame.
    """
    cause = CAUSES.get(type(error))
    if cause is not None and cause.loss is Loss.GAP and num_lost:
        return Cause(cause.name, Loss.CUT_OFF)
    return cause
