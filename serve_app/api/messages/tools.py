"""The tools of a Messages request, and which of them may or must be called."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serve_app.api.fields import quoted
from serve_app.api.messages.request import MessagesRequest, ToolChoiceParam, ToolParam
from serve_app.api.schemas.validation import check_schema
from serve_app.api.tool_names import check_tool_name
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Tool
from serve_app.harmony.grammar import ToolChoice

# Tools that Anthropic defines or runs: they have no schema, and a model that was not trained on them cannot
# call them. Clients send some by default.
_ANTHROPIC_TOOL = re.compile(
    r"(bash|text_editor|computer|computer_toolset|browser_toolset|mcp_toolset|memory|advisor|web_search"
    r"|web_fetch|code_execution|tool_search_tool_bm25|tool_search_tool_regex)(_[0-9]{8})?"
)


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """What the model is told of, and what it may call."""

    shown: tuple[Tool, ...]
    """Those in the prompt."""
    callable: tuple[Tool, ...]
    choice: ToolChoice
    is_parallel: bool


def is_anthropic(tool: ToolParam) -> bool:
    """Whether a tool is one of Anthropic's own, which are left out."""
    return tool.type is not None and _ANTHROPIC_TOOL.fullmatch(tool.type) is not None


def tool_offer(request: MessagesRequest) -> ToolOffer:
    """Returns what a request offers. Raises `BadRequestError` with the place of what cannot be offered."""
    tools: dict[str, Tool] = {}
    for index, param in enumerate(request.tools):
        if not is_anthropic(param):
            tool = _tool(param, f"tools[{index}]")
            if tool.name in tools:
                place = f"tools[{index}].name"
                raise BadRequestError(f"{place}: another tool is named {quoted(tool.name)}", place)
            tools[tool.name] = tool
    return _chosen(tools, request.tool_choice)


def _chosen(tools: dict[str, Tool], choice: ToolChoiceParam) -> ToolOffer:
    everything = tuple(tools.values())
    is_parallel = not choice.disable_parallel_tool_use
    match choice.type:
        case "auto":
            return ToolOffer(everything, everything, "auto", is_parallel)
        case "none":
            return ToolOffer((), (), "none", is_parallel)
        case "any":
            if not tools:
                raise BadRequestError("tool_choice: there is no tool that can be called", "tool_choice")
            return ToolOffer(everything, everything, "required", is_parallel)
        case "tool":
            param = "tool_choice.name"
            if choice.name is None:
                raise BadRequestError(f"{param}: field required", param)
            if choice.name not in tools:
                raise BadRequestError(
                    f"{param}: {quoted(choice.name)} is none of the tools that can be called", param
                )
            return ToolOffer(everything, (tools[choice.name],), "required", is_parallel)


def _tool(tool: ToolParam, place: str) -> Tool:
    if tool.type not in (None, "custom"):
        param = f"{place}.type"
        raise BadRequestError(f"{param}: tools of type {quoted(tool.type)} are not served", param)
    for field, value in (("name", tool.name), ("input_schema", tool.input_schema)):
        if value is None:
            raise BadRequestError(f"{place}.{field}: field required", f"{place}.{field}")
    assert tool.name is not None
    assert tool.input_schema is not None
    check_tool_name(tool.name, f"{place}.name")
    schema = {"type": "object"} | tool.input_schema
    check_schema(schema, f"{place}.input_schema")
    return Tool(tool.name, tool.description or "", schema)
