"""Repairs: what an answer had that no client can be given as it is, by kind, beside the slips of harmony."""

from __future__ import annotations

from enum import StrEnum

from serve_app.harmony.slips import Slip


class Repair(StrEnum):
    """The kinds, as counters name them."""

    UNOFFERED_CALL_DROPPED = "unoffered_call_dropped"
    """A call where no tools are offered: its text is dropped."""
    UNOFFERED_CALL_PASSED = "unoffered_call_passed"
    """A call of a tool that is not among those offered: passed on with the name as said."""
    FORBIDDEN_CALL_DROPPED = "forbidden_call_dropped"
    """A call of a tool that `allowed_tools` leaves out: dropped."""
    PARALLEL_CALL_DROPPED = "parallel_call_dropped"
    """A call behind the first, with `parallel_tool_calls: false`: dropped."""
    INVENTED_RESULT = "invented_result"
    """A tool's result that the model has written itself: nothing is shown from there on."""


KINDS: tuple[str, ...] = (*Slip, *Repair)
"""All kinds that `AnswerReader.repairs` counts."""
