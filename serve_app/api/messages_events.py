"""What an answer of Anthropic's Messages consists of: the events of its stream, and the body."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

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


def on_one_line(json_text: bytes) -> bytes:
    """Returns JSON without what clients that use Python's `splitlines` take for the end of a line."""
    if json_text.isascii():
        return json_text
    return (
        json_text.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def fold(events: Iterable[StreamEvent]) -> dict[str, Any]:
    """Returns the body that is not streamed, of all events of an answer."""
    message: Message | None = None
    blocks: list[Block] = []
    texts: list[str] = []
    for event in events:
        match event:
            case BlockDelta(delta=TextDelta(text=text)):
                texts.append(text)
            case BlockDelta(delta=ThinkingDelta(thinking=text)):
                texts.append(text)
            case BlockDelta(delta=InputJsonDelta(partial_json=text)):
                texts.append(text)
            case BlockDelta(delta=SignatureDelta(signature=signature)):
                assert isinstance(blocks[-1], ThinkingBlock)
                blocks[-1].signature = signature
            case BlockStart():
                blocks.append(msgspec.structs.replace(event.content_block))
                texts = []
            case BlockStop():
                _fill(blocks[-1], "".join(texts))
            case MessageStart():
                message = event.message
            case MessageDelta():
                assert message is not None
                usage = msgspec.structs.asdict(event.usage)
                message = msgspec.structs.replace(
                    message,
                    content=blocks,
                    stop_reason=event.delta.stop_reason,
                    stop_sequence=event.delta.stop_sequence,
                    usage=msgspec.structs.replace(message.usage, **usage),
                )
            case MessageStop():
                pass
    body: dict[str, Any] = msgspec.to_builtins(message)
    return body


def _fill(block: Block, text: str) -> None:
    match block:
        case TextBlock():
            block.text = text
        case ThinkingBlock():
            block.thinking = text
        case ToolUseBlock():
            block.input = object_of(text) or {}


# Anthropic's client for Python reads up to 200 levels.
MAX_DEPTH = 100
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


def object_of(text: str) -> dict[str, Any] | None:
    """Returns the JSON object that arguments are, or None if not every client can read them as one."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    is_flat = text.count("{") + text.count("[") <= MAX_DEPTH or _depth(text) <= MAX_DEPTH
    return value if isinstance(value, dict) and is_flat else None


def _depth(text: str) -> int:
    """Returns how many levels of objects and arrays a JSON text has. It does not recurse."""
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in "}]":
            depth -= 1
    return deepest
