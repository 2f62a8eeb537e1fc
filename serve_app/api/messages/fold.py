"""The body of Anthropic's Messages that is not streamed, of the events of the stream."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from serve_app.api.fields import decode_json
from serve_app.api.messages.events import (
    Block,
    BlockDelta,
    BlockStart,
    BlockStop,
    InputJsonDelta,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    StreamEvent,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
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
        value = decode_json(text)
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
