"""What became of a request, and whether a fault explains it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.chaos.answers import Answer
from benchmarks.chaos.faults import Fault
from benchmarks.chaos.questions import Question


class End(StrEnum):
    """How a request ended, as its client sees it."""

    ANSWER = "an answer"
    STATUS = "an error status"
    EVENT = "an error in the stream"
    CUT = "cut off"
    REFUSED = "no connection"
    MALFORMED = "unreadable"
    SILENT = "silent for too long"
    LEFT = "left by its client"


class Outcome(StrEnum):
    """What a drill makes of it. The last two are failures of the service."""

    WHOLE = "whole"
    LEFT = "left by its client"
    EXPLAINED = "explained error"
    UNEXPLAINED = "unexplained error"
    WRONG = "wrong answer"


FAILURES = (Outcome.UNEXPLAINED, Outcome.WRONG)
# Of HAProxy, when no ingress answers it: the service itself says something else.
PROXY_STATUS = 503


@dataclass
class Attempt:
    """A request that was sent. Times are seconds since the load began."""

    question: Question
    sent_s: float
    behaviour: str = ""
    status: int | None = None
    first_s: float | None = None  # when the first byte came
    ended_s: float = 0.0
    end: End = End.ANSWER
    detail: str = ""
    is_of_service: bool = True  # and not what HAProxy says where no ingress answers
    answer: Answer | None = None
    # The longest time between two pieces, and when it ended; nobody measures it who does not read.
    pause_s: float = 0.0
    pause_ended_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt, in words, and the fault that explains it."""

    outcome: Outcome
    why: str = ""
    fault: Fault | None = None


def verdict(attempt: Attempt, expected: Answer, faults: Iterable[Fault]) -> Verdict:
    """Returns what became of an attempt, the faults being all that have come."""
    if attempt.end is End.LEFT:
        return Verdict(Outcome.LEFT)
    if attempt.end is End.ANSWER:
        assert attempt.answer
        if attempt.answer == expected:
            return Verdict(Outcome.WHOLE)
        return Verdict(Outcome.WRONG, expected.difference(attempt.answer))
    why = f"{attempt.end}: {attempt.detail}" if attempt.detail else str(attempt.end)
    if attempt.end is End.MALFORMED:
        return Verdict(Outcome.WRONG, why)
    is_connection = attempt.end in (End.CUT, End.REFUSED) or (
        attempt.end is End.STATUS and attempt.status == PROXY_STATUS and not attempt.is_of_service
    )
    for fault in faults:
        if fault.explains(attempt.sent_s, attempt.ended_s, is_connection=is_connection):
            return Verdict(Outcome.EXPLAINED, why, fault)
    return Verdict(Outcome.UNEXPLAINED, why)
