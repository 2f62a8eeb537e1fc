"""The body of a request to Anthropic's Messages, as far as it is read. Other fields are ignored.

The structs are also what the OpenAPI document says of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from serve_app.api.chat.request import MAX_STOP_STRINGS, MAX_TOOLS, Int64, StopString
from serve_app.api.fields import convert, quoted, without_nulls
from serve_app.api.messages.errors import UnservedFeatureError
from serve_app.errors import BadRequestError

# Kinds of blocks that hold what a model without eyes cannot read.
THREAD = "thread"
NOT_TEXT = frozenset({"image", "document", "search_result", "audio", "video", "file", "container_upload"})


class TextBlockParam(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text of whoever speaks."""

    text: str


class ThinkingBlockParam(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """Chain of thought of an earlier answer; without text (`display: omitted`) the signature holds it."""

    thinking: str = ""
    signature: str | None = None


class RedactedThinkingBlockParam(msgspec.Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    """Chain of thought that only its author can read: passed over."""


class ToolUseBlockParam(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of an earlier answer."""

    id: str
    name: Annotated[str, Meta(min_length=1)]
    input: dict[str, Any] | None = None


class ToolReferenceBlockParam(msgspec.Struct, frozen=True, tag_field="type", tag="tool_reference"):
    """The name of a tool that a search has found; all tools are in the prompt anyway."""

    tool_name: str


class ToolResultBlockParam(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """What a call has returned."""

    tool_use_id: str
    content: str | list[TextBlockParam | ToolReferenceBlockParam] | None = None
    is_error: bool | None = None


BlockParam = (
    TextBlockParam
    | ThinkingBlockParam
    | RedactedThinkingBlockParam
    | ToolUseBlockParam
    | ToolResultBlockParam
)


class MessageParam(msgspec.Struct, frozen=True):
    """A turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[BlockParam]


class ToolParam(msgspec.Struct, frozen=True):
    """A tool. Those of a `type` other than `custom` are Anthropic's own, and have no schema."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None


class ToolChoiceParam(msgspec.Struct, frozen=True):
    """Which tools must or may be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True):
    """Whether the chain of thought is shown, and how long it may be."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    """What the text of the answer must look like."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """How the answer is to be."""

    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request. `max_tokens` is missing only where tokens are counted."""

    messages: list[MessageParam]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    model: str | None = None
    system: str | list[TextBlockParam] | None = None
    stream: bool = False
    stop_sequences: Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] = []
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int64 | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MAX_TOOLS)] = []
    tool_choice: ToolChoiceParam = ToolChoiceParam("auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None
    effort: str | None = None
    service_tier: Literal["auto", "standard_only", "default", "flex", "priority"] | None = None
    metadata: dict[str, Any] | None = None
    mcp_servers: list[Any] = []
    context_management: dict[str, Any] | None = None
    container: Any = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    vllm_xargs: dict[str, Any] | None = None


def read_request(body: Mapping[str, Any], is_counting: bool) -> MessagesRequest:
    """Returns the request of a body. Raises `BadRequestError` with the place of what does not fit."""
    body = without_nulls(body)
    if THREAD in body:
        # The tool runners of Anthropic's SDKs ask for one, and do without if they are told so in this form.
        raise UnservedFeatureError(
            f"{THREAD}: threads of messages are not kept here",
            THREAD,
            {"error_code": "thread_unsupported_request", "unsupported": [THREAD]},
        )
    for field in ("messages",) if is_counting else ("messages", "max_tokens"):
        if field not in body:
            raise BadRequestError(f"{field}: field required", field)
    try:
        return convert(body, MessagesRequest)
    except BadRequestError as error:
        # Of a block that nobody reads, its kind is what is wrong, and not that it fits none of the structs.
        raise _first_unread(body) or error from None


def _first_unread(body: Mapping[str, Any]) -> BadRequestError | None:
    for block, place, known in _blocks(body):
        kind = block.get("type")
        if not isinstance(kind, str) or kind in known:
            continue
        if kind in NOT_TEXT:
            return BadRequestError(f"{place} is of type {kind}; this model reads text only", place)
        return BadRequestError(f"{place} is of type {quoted(kind)}, which is not served here", place)
    return None


_ANYWHERE = {"text", "thinking", "redacted_thinking", "tool_use", "tool_result"}
_IN_RESULTS = {"text", "tool_reference"}


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, set[str]]]:
    """Yields each block of a body that may be wrong in any way, its place and the kinds that it may be of."""
    yield from ((block, place, {"text"}) for block, place in _listed(body.get("system"), "system"))
    for message, place in _listed(body.get("messages"), "messages"):
        for block, inner in _listed(message.get("content"), f"{place}.content"):
            yield block, inner, _ANYWHERE
            results = _listed(block.get("content"), f"{inner}.content")
            yield from ((result, result_place, _IN_RESULTS) for result, result_place in results)


def _listed(value: Any, path: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    for index, item in enumerate(value if isinstance(value, list) else []):
        if isinstance(item, Mapping):
            yield item, f"{path}[{index}]"
