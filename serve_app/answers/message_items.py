"""Which item a message of the model's is, given what the request offered."""

from __future__ import annotations

from collections import Counter
from typing import Final

from serve_app.answers.items import CallBegan, ReasoningBegan, TextBegan
from serve_app.answers.offer import Offer
from serve_app.answers.repairs import Repair
from serve_app.harmony.header import Author, Header

Item = ReasoningBegan | TextBegan | CallBegan

REASONING: Final = ReasoningBegan()
_TEXTS: Final = {"commentary": TextBegan("commentary"), "final": TextBegan("final")}


class MessageItems:
    """The items of one answer, message by message. `repairs` counts what is not as it was said."""

    __slots__ = ("_has_call", "_offer", "_repairs")

    def __init__(self, offer: Offer, repairs: Counter[str]) -> None:
        self._offer, self._repairs = offer, repairs
        self._has_call = False

    def item_of(self, header: Header) -> Item | None:
        """Returns what the next message is; None: it is not shown."""
        if header.author is not Author.ASSISTANT:
            if header.author is Author.TOOL:
                self._repairs[Repair.INVENTED_RESULT] += 1
            return None
        name, channel = header.recipient, header.channel
        is_known = name in self._offer.tools or name in self._offer.forbidden_tools
        if name is not None and (is_known or channel != "final"):
            return self._call(name)
        return REASONING if channel == "analysis" else _TEXTS[channel or "final"]

    def _call(self, name: str) -> CallBegan | None:
        offer, repair = self._offer, None
        is_offered = name in offer.tools
        if not is_offered and name in offer.forbidden_tools:
            repair = Repair.FORBIDDEN_CALL_DROPPED
        elif not is_offered and not offer.tools:
            repair = Repair.UNOFFERED_CALL_DROPPED
        elif self._has_call and not offer.is_parallel:
            repair = Repair.PARALLEL_CALL_DROPPED
        if repair is not None:
            self._repairs[repair] += 1
            return None
        if not is_offered:
            self._repairs[Repair.UNOFFERED_CALL_PASSED] += 1
        self._has_call = True
        return CallBegan(name)
