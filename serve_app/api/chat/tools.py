"""The functions of a Chat Completions request, and which of them may or must be called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from serve_app.api.chat.request import ChatRequest, Function, FunctionTool
from serve_app.api.fields import quoted
from serve_app.api.schemas.validation import check_format_schema, check_schema
from serve_app.api.tool_names import check_tool_name
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Tool
from serve_app.harmony.grammar import ToolChoice

_MODES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """What the model is told of, and what it may call."""

    shown: tuple[Tool, ...] = ()
    """Those in the prompt."""
    callable: tuple[Tool, ...] = ()
    choice: ToolChoice = "none"
    param: str = "tools"
    """The field that they come from."""

    @property
    def names(self) -> frozenset[str]:
        """Names of those that may be called."""
        return frozenset(tool.name for tool in self.callable)

    @property
    def forbidden_names(self) -> frozenset[str]:
        """Names of those that are only shown."""
        return frozenset(tool.name for tool in self.shown) - self.names

    def check_grammar(self) -> None:
        """Raises `BadRequestError` if a call's arguments cannot be made to follow the tool's schema."""
        names = self.names
        for index, tool in enumerate(self.shown):
            if tool.parameters is not None and tool.name in names:
                inner = "function.parameters" if self.param == "tools" else "parameters"
                check_format_schema(tool.parameters, f"{self.param}[{index}].{inner}")


def tool_offer(request: ChatRequest) -> ToolOffer:
    """Returns what a request offers. Raises `BadRequestError` with the place of what cannot be offered."""
    if request.tools is not None:
        tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools))
        param, choice_param, choice = "tools", "tool_choice", request.tool_choice
    else:
        functions = request.functions or ()
        tools = tuple(_function(item, f"functions[{index}]") for index, item in enumerate(functions))
        # The older names of the same, unless only the newer one is there.
        is_older = request.tool_choice is None
        param = "functions" if request.functions is not None else "tools"
        choice_param = "function_call" if is_older else "tool_choice"
        choice = request.function_call if is_older else request.tool_choice
    if not tools:
        if request.tools is not None or request.functions is not None:
            raise BadRequestError(f"{param} must not be empty; leave it out for no tools", param)
        if choice not in (None, "none"):
            raise BadRequestError(f"{choice_param} needs tools, and {param} is not there", choice_param)
        return ToolOffer()
    return replace(_chosen(tools, choice, choice_param), param=param)


def _tool(tool: FunctionTool, place: str) -> Tool:
    if tool.type not in (None, "function"):
        raise BadRequestError(f"{place} is of type {quoted(tool.type)}; functions are served only", place)
    if tool.function is None:
        raise BadRequestError(f"{place}.function: this field is missing", f"{place}.function")
    return _function(tool.function, f"{place}.function")


def _function(function: Function, place: str) -> Tool:
    check_tool_name(function.name, f"{place}.name")
    if function.parameters is not None:
        check_schema(function.parameters, f"{place}.parameters")
    return Tool(function.name, function.description or "", function.parameters)


def _chosen(tools: tuple[Tool, ...], choice: str | Mapping[str, Any] | None, param: str) -> ToolOffer:
    match choice:
        case None | "auto":
            return ToolOffer(tools, tools, "auto")
        case "none":
            return ToolOffer()
        case "required":
            return ToolOffer(tools, tools, "required")
        case {"type": "allowed_tools", **rest}:
            # Responses has its fields without the object around them.
            inner = f"{param}.allowed_tools" if "allowed_tools" in rest else param
            return _allowed(tools, rest.get("allowed_tools", rest), inner)
        case Mapping() if choice.get("type") in (None, "function"):
            return ToolOffer(tools, (_named(_by_name(tools), choice, param),), "required")
    raise BadRequestError(
        f"{param} is {quoted(choice if isinstance(choice, str) else choice.get('type'))}; "
        f"it must be one of {', '.join(_MODES)}, a function or allowed_tools",
        param,
    )


def _allowed(tools: tuple[Tool, ...], allowed: Any, param: str) -> ToolOffer:
    mode = allowed.get("mode") if isinstance(allowed, Mapping) else None
    if mode not in ("auto", "required"):
        raise BadRequestError(f"{param}.mode must be auto or required", f"{param}.mode")
    choices = allowed.get("tools")
    if not isinstance(choices, list) or not choices:
        raise BadRequestError(f"{param}.tools must be a list of functions, not empty", f"{param}.tools")
    by_name = _by_name(tools)
    names = {_named(by_name, item, f"{param}.tools[{index}]").name for index, item in enumerate(choices)}
    callable_tools = tuple(tool for tool in tools if tool.name in names)
    return ToolOffer(tools, callable_tools, "required" if mode == "required" else "auto")


def _by_name(tools: Iterable[Tool]) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}


def _named(tools: Mapping[str, Tool], choice: Any, param: str) -> Tool:
    """Returns the tool that `{"type": "function", "function": {"name": ...}}` or its shorter form names."""
    inner = choice.get("function", choice) if isinstance(choice, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str):
        raise BadRequestError(f"{param} must name a function", param)
    if tool := tools.get(name):
        return tool
    raise BadRequestError(f"{param} is {quoted(name)}, which is none of the tools", param)
