"""An answer of Anthropic's Messages: the events of an answer to those of a stream."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

import msgspec

from serve_app.answers.items import (
    AnswerEnded,
    CallBegan,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
)
from serve_app.answers.usage import Usage
from serve_app.api.event_lines import on_one_line
from serve_app.api.exchange import Start
from serve_app.api.messages.errors import error_body
from serve_app.api.messages.events import (
    Block,
    BlockDelta,
    BlockStart,
    BlockStop,
    DeltaUsage,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutputTokensDetails,
    SignatureDelta,
    Stop,
    StopReason,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    event_bytes,
)
from serve_app.api.messages.fold import fold, object_of
from serve_app.api.sealing import Sealer
from serve_app.errors import ServiceError

# The kind of a repair: the arguments of a complete call are not one JSON object, and its input is empty.
NOT_AN_OBJECT = "arguments_not_an_object"

_STOP_REASONS: dict[Finish, StopReason] = {
    Finish.STOP: "end_turn",
    Finish.CALLS: "tool_use",
    Finish.LENGTH: "max_tokens",
}


class Display(Enum):
    """What an answer shows of the chain of thought."""

    NOTHING = auto()
    """No block."""
    SIGNATURE = auto()
    """Blocks without text. With a sealer their signatures hold it, for the next request to bring it back."""
    TEXT = auto()


@dataclass(frozen=True, slots=True)
class View:
    """What the request says about how its answer is shown."""

    display: Display = Display.NOTHING
    eager_tools: frozenset[str] = frozenset()
    """Those whose arguments are streamed as they come (`eager_input_streaming`)."""
    service_tier: Literal["standard", "priority"] = "standard"


class MessagesEncoder:
    """The `Encoder` of Messages.

    Arguments of a call are held back until it ends, and sent as one piece if they are one JSON object:
    clients parse each piece as it comes, and some raise for what is not JSON. What is none is counted in
    `repairs` and not sent, so that everybody's input is `{}`, that of a cut call too. For tools that say
    `eager_input_streaming` all text is sent as it comes, as Anthropic does it.
    """

    def __init__(self, start: Start, view: View, sealer: Sealer | None) -> None:
        """`sealer` makes the signatures of thinking blocks without text."""
        self._start, self._view, self._sealer = start, view, sealer
        self._index = -1
        """That of the block that was begun last."""
        self._item: ReasoningBegan | TextBegan | CallBegan | None = None
        self._is_shown = False
        """Whether the item has a block that is begun."""
        self._texts: list[str] = []
        self._ended: AnswerEnded | None = None
        self.repairs: Counter[str] = Counter()

    def begin(self) -> Iterable[StreamEvent]:
        """Returns `message_start`: its usage cannot know yet what was in the prefix cache."""
        usage = Usage(len(self._start.prompt_token_ids), 0)
        message = Message(
            id=f"msg_{uuid.uuid4().hex}",
            model=self._start.model,
            content=[],
            usage=MessageUsage(**msgspec.structs.asdict(_usage(usage)), service_tier=self._view.service_tier),
        )
        return [MessageStart(message)]

    def feed(
        self, choice: int, events: Sequence[ItemEvent], token_ids: Sequence[int]
    ) -> Iterable[StreamEvent]:
        """Returns the events for those of the one choice."""
        made: list[StreamEvent] = []
        for event in events:
            if type(event) is Delta:
                if event.text:
                    self._grow(event.text, made)
            elif type(event) is ItemEnded:
                self._end_item(event, made)
            elif type(event) is AnswerEnded:
                self._ended = event
            else:
                assert isinstance(event, ReasoningBegan | TextBegan | CallBegan)
                self._item, self._is_shown, self._texts = event, False, []
                if isinstance(event, CallBegan):
                    # Of the others there may be no text, and clients do not take empty blocks.
                    self._show(ToolUseBlock(id=f"toolu_{uuid.uuid4().hex}", name=event.name, input={}), made)
        return made

    def _grow(self, text: str, made: list[StreamEvent]) -> None:
        item = self._item
        if type(item) is TextBegan:
            if not self._is_shown:
                self._show(TextBlock(), made)
            made.append(BlockDelta(self._index, TextDelta(text)))
        elif type(item) is ReasoningBegan:
            self._think(text, made)
        elif type(item) is CallBegan:
            self._argue(item.name, text, made)

    def _think(self, text: str, made: list[StreamEvent]) -> None:
        if self._view.display is Display.NOTHING:
            return
        if not self._is_shown:
            self._show(ThinkingBlock(), made)
        self._texts.append(text)
        if self._view.display is Display.TEXT:
            made.append(BlockDelta(self._index, ThinkingDelta(text)))

    def _argue(self, name: str, text: str, made: list[StreamEvent]) -> None:
        is_begun = bool(self._texts)
        self._texts.append(text)
        if name in self._view.eager_tools:
            # A client that parses each piece takes no leading blanks alone.
            if not is_begun and not (text := text.lstrip()):
                self._texts.clear()
                return
            made.append(BlockDelta(self._index, InputJsonDelta(text)))

    def _show(self, block: Block, made: list[StreamEvent]) -> None:
        self._index += 1
        self._is_shown = True
        made.append(BlockStart(self._index, block))

    def _end_item(self, end: ItemEnded, made: list[StreamEvent]) -> None:
        item, self._item = self._item, None
        if not self._is_shown:
            return
        if isinstance(item, ReasoningBegan):
            made.append(BlockDelta(self._index, SignatureDelta(self._signature("".join(self._texts)))))
        elif isinstance(item, CallBegan):
            text = "".join(self._texts)
            if object_of(text) is None:
                # A cut is no fault of the model's.
                self.repairs[NOT_AN_OBJECT] += end.is_complete
            elif item.name not in self._view.eager_tools:
                made.append(BlockDelta(self._index, InputJsonDelta(text)))
        made.append(BlockStop(self._index))

    def _signature(self, text: str) -> str:
        if self._view.display is Display.SIGNATURE and self._sealer:
            return self._sealer.seal(text)
        # Of a text that is there, the signature need not bring it back: it is only not empty.
        return base64.b64encode(hashlib.sha256(text.encode(errors="replace")).digest()).decode()

    def end(self, usage: Usage) -> Iterable[StreamEvent]:
        """Returns why it ended, the usage of all of it, and `message_stop`."""
        ended = self._ended
        assert ended is not None, "the answer's last event has not come"
        reason, sequence = _STOP_REASONS[ended.finish], None
        if ended.finish is Finish.STOP and ended.stop_string is not None:
            reason, sequence = "stop_sequence", ended.stop_string
        return [MessageDelta(Stop(reason, sequence), _usage(usage)), MessageStop()]

    def to_bytes(self, event: StreamEvent) -> bytes:
        """Returns an event with its name, as Anthropic's clients look for it."""
        return event_bytes(event)

    def last_bytes(self) -> bytes:
        """Returns nothing: `message_stop` is the end."""
        return b""

    def error_bytes(self, error: ServiceError) -> bytes:
        """Returns the event `error`."""
        return b"event: error\ndata: " + on_one_line(msgspec.json.encode(error_body(error))) + b"\n\n"

    def fold(self, events: Iterable[StreamEvent]) -> dict[str, Any]:
        """Returns the message."""
        return fold(events)


def _usage(usage: Usage) -> DeltaUsage:
    """Returns Anthropic's counts: `input_tokens` are those that were not cached."""
    return DeltaUsage(
        usage.prompt_tokens - usage.cached_tokens,
        usage.completion_tokens,
        0,
        usage.cached_tokens,
        OutputTokensDetails(usage.reasoning_tokens),
    )
