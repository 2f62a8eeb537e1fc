"""What an answer of Anthropic's Messages consists of: the events of its stream, and the body."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from serve_app.api.event_lines import on_one_line

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """A text: a preamble or an answer."""

    text: str = ""


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """Chain of thought. The signature is opaque to clients."""

    thinking: str = ""
    signature: str = ""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use", kw_only=True):
    """A call. `input` is `{}` where what the model has said is not one JSON object."""

    id: str
    name: str
    input: dict[str, Any]


Block = TextBlock | ThinkingBlock | ToolUseBlock


class OutputTokensDetails(msgspec.Struct):
    """What `output_tokens` were spent on."""

    thinking_tokens: int


class DeltaUsage(msgspec.Struct):
    """Tokens, as a stream's end counts them: of all of the answer."""

    input_tokens: int
    """Those that were not in the prefix cache."""
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens_details: OutputTokensDetails


class MessageUsage(DeltaUsage):
    """Tokens, as the message counts them."""

    service_tier: Literal["standard", "priority"]


class Message(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """The body that is not streamed."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class MessageStart(msgspec.Struct, tag_field="type", tag="message_start"):
    """The first event. The message has no content yet; its usage counts the prompt."""

    message: Message


class BlockStart(msgspec.Struct, tag_field="type", tag="content_block_start"):
    """A block begins; it is empty."""

    index: int
    content_block: Block


class TextDelta(msgspec.Struct, tag_field="type", tag="text_delta", gc=False):
    """More of a text."""

    text: str


class ThinkingDelta(msgspec.Struct, tag_field="type", tag="thinking_delta", gc=False):
    """More of the chain of thought."""

    thinking: str


class SignatureDelta(msgspec.Struct, tag_field="type", tag="signature_delta", gc=False):
    """The signature of a chain of thought, when all of it has been sent."""

    signature: str


class InputJsonDelta(msgspec.Struct, tag_field="type", tag="input_json_delta", gc=False):
    """Arguments of a call: the model's own text."""

    partial_json: str


class BlockDelta(msgspec.Struct, tag_field="type", tag="content_block_delta"):
    """The open block grows."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(msgspec.Struct, tag_field="type", tag="content_block_stop"):
    """The open block ends."""

    index: int


class Stop(msgspec.Struct):
    """Why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, tag_field="type", tag="message_delta"):
    """All blocks have ended."""

    delta: Stop
    usage: DeltaUsage


class MessageStop(msgspec.Struct, tag_field="type", tag="message_stop"):
    """The last event."""


StreamEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop

_HEADS: dict[type[StreamEvent], bytes] = {
    MessageStart: b"event: message_start\ndata: ",
    BlockStart: b"event: content_block_start\ndata: ",
    BlockDelta: b"event: content_block_delta\ndata: ",
    BlockStop: b"event: content_block_stop\ndata: ",
    MessageDelta: b"event: message_delta\ndata: ",
    MessageStop: b"event: message_stop\ndata: ",
}
_encode = msgspec.json.Encoder().encode


def event_bytes(event: StreamEvent) -> bytes:
    """Returns an event as it is streamed, with the empty line behind it."""
    return _HEADS[type(event)] + on_one_line(_encode(event)) + b"\n\n"
