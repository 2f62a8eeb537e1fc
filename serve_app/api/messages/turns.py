"""The messages of Anthropic's API to the turns of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import msgspec

from serve_app.api.fields import quoted
from serve_app.api.messages.request import (
    BlockParam,
    MessageParam,
    RedactedThinkingBlockParam,
    TextBlockParam,
    ThinkingBlockParam,
    ToolReferenceBlockParam,
    ToolResultBlockParam,
    ToolUseBlockParam,
)
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import (
    AssistantText,
    Call,
    Instructions,
    Reasoning,
    ToolResult,
    Turn,
    UserText,
)

# Between blocks of text: each is a paragraph of its own to whoever has written it.
SEPARATOR = "\n"
# Claude Code's line for the bill, another one in every request: it would spoil the prefix cache.
_BILLING_HEADER = "x-anthropic-billing-header"

Unseal = Callable[[str], str | None]


def instructions(system: str | Sequence[TextBlockParam]) -> Iterator[Instructions]:
    """Yields what a system prompt says, nothing for an empty one."""
    texts = [system] if isinstance(system, str) else [block.text for block in system]
    text = SEPARATOR.join(text for text in texts if text and not text.startswith(_BILLING_HEADER))
    if text:
        yield Instructions(text)


def turns_of(messages: Sequence[MessageParam], unseal: Unseal) -> list[Turn]:
    """Returns the turns. `unseal` returns the chain of thought that a signature holds, None for none.

    Raises `BadRequestError` for a block that stands where it cannot, and for a result without a call.
    """
    turns: list[Turn] = []
    # The nearest earlier call of an id is the last one.
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        place = f"messages[{index}].content"
        if isinstance(message.content, str):
            blocks: Sequence[BlockParam] = [TextBlockParam(message.content)]
        else:
            blocks = message.content
        if message.role == "user":
            turns += _user(blocks, place, names)
        elif message.role == "assistant":
            turns += _assistant(blocks, place, names, unseal)
        else:
            turns += instructions([_expect_text(block, place, i) for i, block in enumerate(blocks)])
    return _with_channels(turns)


def goes_on(messages: Sequence[MessageParam]) -> bool:
    """Returns whether the answer goes on with a text that the last message has begun."""
    return isinstance(_last_block(messages), TextBlockParam)


def check_end(messages: Sequence[MessageParam]) -> None:
    """Raises `BadRequestError` if the last message is the assistant's, and nothing can go on with it."""
    if not isinstance(_last_block(messages), TextBlockParam | None):
        place = f"messages[{len(messages) - 1}]"
        raise BadRequestError(f"{place}: an assistant message that is last must end with text", place)


def _last_block(messages: Sequence[MessageParam]) -> BlockParam | None:
    """Returns the last block, if it is the assistant's and not empty."""
    last = messages[-1]
    if last.role != "assistant":
        return None
    blocks = [TextBlockParam(last.content)] if isinstance(last.content, str) else last.content
    filled = [block for block in blocks if not isinstance(block, TextBlockParam) or block.text]
    return filled[-1] if filled else None


def _user(blocks: Sequence[BlockParam], place: str, names: dict[str, str]) -> Iterator[Turn]:
    texts: list[str] = []
    for index, block in enumerate(blocks):
        if isinstance(block, TextBlockParam):
            if block.text:
                texts.append(block.text)
        elif isinstance(block, ToolResultBlockParam):
            if texts:
                yield UserText(SEPARATOR.join(texts))
                texts = []
            if block.tool_use_id not in names:
                raise BadRequestError(
                    f"{place}[{index}].tool_use_id: no tool_use before it has the id "
                    f"{quoted(block.tool_use_id)}",
                    f"{place}[{index}].tool_use_id",
                )
            yield ToolResult(names[block.tool_use_id], _result_text(block))
        else:
            raise _misplaced(block, f"{place}[{index}]", "user")
    if texts:
        yield UserText(SEPARATOR.join(texts))


def _result_text(block: ToolResultBlockParam) -> str:
    content = block.content or ""
    if not isinstance(content, str):
        texts = [
            part.tool_name if isinstance(part, ToolReferenceBlockParam) else part.text for part in content
        ]
        content = SEPARATOR.join(texts)
    return f"Error: {content}" if block.is_error else content


def _assistant(
    blocks: Sequence[BlockParam], place: str, names: dict[str, str], unseal: Unseal
) -> Iterator[Turn]:
    for index, block in enumerate(blocks):
        match block:
            case TextBlockParam():
                if block.text:
                    yield AssistantText(block.text)
            case ThinkingBlockParam():
                if text := block.thinking or unseal(block.signature or ""):
                    yield Reasoning(text)
            case ToolUseBlockParam():
                names[block.id] = block.name
                yield Call(block.name, _arguments(block, f"{place}[{index}].input"))
            case RedactedThinkingBlockParam():
                pass
            case ToolResultBlockParam():
                raise _misplaced(block, f"{place}[{index}]", "assistant")


def _arguments(block: ToolUseBlockParam, place: str) -> str:
    try:
        # Without spaces, as the model itself writes it: a prefix cache knows the text then.
        return msgspec.json.encode(block.input or {}).decode()
    except RecursionError:
        raise BadRequestError(f"{place} is nested too deeply", place) from None


def _expect_text(block: BlockParam, place: str, index: int) -> TextBlockParam:
    if not isinstance(block, TextBlockParam):
        raise _misplaced(block, f"{place}[{index}]", "system")
    return block


def _misplaced(block: BlockParam, place: str, role: str) -> BadRequestError:
    kind = block.__struct_config__.tag
    return BadRequestError(f"{place}: a {role} message cannot hold a block of type {kind}", place)


def _with_channels(turns: Iterable[Turn]) -> list[Turn]:
    """A text with a call behind it, before anybody else speaks, was a preamble and not an answer."""
    marked: list[Turn] = []
    has_call = False
    for turn in reversed(list(turns)):
        match turn:
            case Call():
                has_call = True
            case UserText() | Instructions() | ToolResult():
                has_call = False
            case AssistantText() if has_call:
                turn = replace(turn, channel="commentary")
        marked.append(turn)
    marked.reverse()
    return marked
