"""What Anthropic's client for Python makes of a stream; an encoder, called as the service calls it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, ParsedMessage, RawMessageStreamEvent
from pydantic import TypeAdapter

from serve_app.answers.items import AnswerEnded, Finish, ItemEvent
from serve_app.answers.usage import Usage
from serve_app.api.exchange import Start
from serve_app.api.messages.answer import MessagesEncoder, View
from serve_app.api.messages.events import StreamEvent
from serve_app.api.sealing import Sealer

START = Start("gpt-oss", 0, [1] * 10, lambda token_id: b"")
USAGE = Usage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=2, cached_tokens=8)
_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def ended(finish: Finish = Finish.STOP, stop_string: str | None = None) -> AnswerEnded:
    return AnswerEnded(finish, USAGE.completion_tokens, USAGE.reasoning_tokens, stop_string)


class Answer:
    """An answer as one encoder has made it, streamed and not."""

    def __init__(
        self,
        items: Sequence[ItemEvent],
        view: View | None = None,
        sealer: Sealer | None = None,
        usage: Usage = USAGE,
    ) -> None:
        encoder = MessagesEncoder(START, view or View(), sealer)
        events: list[StreamEvent] = [*encoder.begin(), *encoder.feed(0, items, [])]
        events += encoder.end(usage)
        self.chunks = [encoder.to_bytes(event) for event in events]
        self.body = encoder.fold(events)
        self.repairs = encoder.repairs

    @property
    def data(self) -> list[dict[str, Any]]:
        """The data of the events, each checked against Anthropic's own type of it."""
        parsed = []
        for chunk in self.chunks:
            name, data, *rest = chunk.decode().splitlines()
            event = json.loads(data.removeprefix("data: "))
            assert rest == [""]
            assert name == f"event: {event['type']}"
            _EVENT.validate_python(event)
            parsed.append(event)
        return parsed

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [event["delta"] for event in self.data if event["type"] == "content_block_delta"]

    def folded_by_client(self) -> dict[str, Any]:
        """The message that Anthropic's client has at the end of the stream, without what is null."""
        snapshot: ParsedMessage[Any] | None = None
        buffers: dict[int, bytes] = {}
        for event in self.data:
            snapshot = accumulate_event(event=cast(Any, event), current_snapshot=snapshot, json_bufs=buffers)
        assert snapshot is not None
        return snapshot.to_dict(exclude_none=True)


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """`body` without what is null, after a check against Anthropic's own type."""
    return Message.model_validate(body, strict=True).to_dict(exclude_none=True)
