"""The tools of a Responses request, and which of them may be called.

Functions are served, also those in namespaces: harmony has none, so that a function `read` in the namespace
`files` is `files__read` to the model, and `read` with its namespace again in the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from serve_app.api.chat.request import MAX_TOOLS
from serve_app.api.fields import convert, quoted
from serve_app.api.schemas.validation import check_format_schema, check_schema
from serve_app.api.tool_names import check_tool_name
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Tool
from serve_app.harmony.grammar import ToolChoice

# OpenAI's kinds that are not served here.
OTHER_KINDS = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use",
        "computer_use_preview",
        "container",
        "custom",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
_SEPARATOR = "__"


class _Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Namespace(msgspec.Struct, frozen=True):
    name: str
    tools: list[dict[str, Any]]
    description: str | None = None


class _AllowedTools(msgspec.Struct, frozen=True):
    tools: list[dict[str, Any]]
    mode: Literal["auto", "required", "none"] | None = None


def flat_name(name: str, namespace: str | None) -> str:
    """Returns what a function is called in the prompt."""
    return f"{namespace}{_SEPARATOR}{name}" if namespace else name


@dataclass(slots=True)
class Toolbox:
    """What a request offers. `add` it list by list."""

    tools: dict[str, Tool] = field(default_factory=dict)
    """By the name in the prompt."""
    namespaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Namespace and name of those that have a namespace, by the name in the prompt."""
    echo: list[dict[str, Any]] = field(default_factory=list)
    """The tools as the response shows them."""
    warnings: list[str] = field(default_factory=list)
    _places: dict[str, str] = field(default_factory=dict)
    # The names in the prompt by a function's own name and by that of its namespace: a `tool_choice` may name
    # as many as there are.
    _by_own_name: dict[str, list[str]] = field(default_factory=dict)
    _by_namespace: dict[str, list[str]] = field(default_factory=dict)

    def add(self, entries: Sequence[Mapping[str, Any]], path: str) -> None:
        """Adds the tools of a list that stands at `path` of the body. Raises `BadRequestError`."""
        for index, entry in enumerate(entries):
            place = f"{path}[{index}]"
            if self._kind(entry, place) == "namespace":
                namespace = convert(entry, _Namespace, place)
                check_tool_name(namespace.name, f"{place}.name")
                shown = [
                    self._add_function(inner, f"{place}.tools[{position}]", namespace.name)
                    for position, inner in self._functions(namespace.tools, f"{place}.tools")
                ]
                self.echo.append(
                    {
                        "type": "namespace",
                        "name": namespace.name,
                        "description": namespace.description or "",
                        "tools": shown,
                    }
                )
            else:
                for _ in self._functions([entry], place, is_list=False):
                    self.echo.append(self._add_function(entry, place, None))

    def _kind(self, entry: Mapping[str, Any], place: str) -> str:
        kind = entry.get("type")
        if not isinstance(kind, str):
            raise BadRequestError(f"{place}.type: the kind of a tool is missing", f"{place}.type")
        return kind

    def _functions(
        self, entries: Sequence[Mapping[str, Any]], path: str, *, is_list: bool = True
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yields the functions among `entries` and their positions; other kinds are left out."""
        for index, entry in enumerate(entries):
            place = f"{path}[{index}]" if is_list else path
            kind = self._kind(entry, place)
            if kind == "function":
                yield index, entry
            elif kind in OTHER_KINDS:
                self.warnings.append(f"{place}: {kind}: not served")
            else:
                raise _unknown_kind(kind, f"{place}.type")

    def _add_function(self, entry: Mapping[str, Any], place: str, namespace: str | None) -> dict[str, Any]:
        function = convert(entry, _Function, place)
        check_tool_name(function.name, f"{place}.name")
        if function.parameters is not None:
            check_schema(function.parameters, f"{place}.parameters")
        name = flat_name(function.name, namespace)
        if len(self.tools) >= MAX_TOOLS:
            raise BadRequestError(f"{place}: there may be {MAX_TOOLS} functions", place)
        if name in self.tools:
            self.warnings.append(f"{place}: {name} is defined twice; the first one counts")
        else:
            self.tools[name] = Tool(name, function.description or "", function.parameters)
            self._places[name] = place
            if namespace:
                self.namespaced[name] = namespace, function.name
                self._by_own_name.setdefault(function.name, []).append(name)
                self._by_namespace.setdefault(namespace, []).append(name)
        return {
            "type": "function",
            "name": function.name,
            "description": function.description,
            "parameters": function.parameters,
            "strict": function.strict,
        }

    def check_grammar(self, names: frozenset[str]) -> None:
        """Raises `BadRequestError` if a call of one of `names` cannot be made to follow its schema."""
        for name, tool in self.tools.items():
            if name in names and tool.parameters is not None:
                check_format_schema(tool.parameters, f"{self._places[name]}.parameters")

    def find(self, name: str, namespace: str | None) -> str | None:
        """Returns the name in the prompt of the function that a client means, or None."""
        if (flat := flat_name(name, namespace)) in self.tools:
            return flat
        if namespace is None:
            alike = self._by_own_name.get(name, [])
            if len(alike) == 1:
                return alike[0]
        return None

    def inside(self, namespace: Any) -> list[str]:
        """Returns the names in the prompt of a namespace's functions."""
        return self._by_namespace.get(namespace, []) if isinstance(namespace, str) else []


@dataclass(frozen=True, slots=True)
class Choice:
    """What `tool_choice` comes down to."""

    mode: ToolChoice
    names: frozenset[str]
    """Of the functions that may be called, as in the prompt."""
    echo: str | dict[str, Any]
    """As the response shows it."""


def choose(choice: str | Mapping[str, Any] | None, toolbox: Toolbox) -> Choice:
    """Returns the meaning of a `tool_choice`. Raises `BadRequestError` for what cannot be done."""
    everything = frozenset(toolbox.tools)
    if choice is None or choice == "auto":
        return Choice("auto", everything, "auto")
    if choice == "none":
        return Choice("none", frozenset(), "none")
    if choice == "required":
        if not everything:
            raise BadRequestError(
                "tool_choice is 'required', and there is no function to call", "tool_choice"
            )
        return Choice("required", everything, "required")
    if isinstance(choice, str):
        raise BadRequestError(
            f"tool_choice is {quoted(choice)}; it may be 'none', 'auto', 'required' or an object",
            "tool_choice",
        )
    match choice.get("type"):
        case "function":
            name = _named(choice, toolbox, "tool_choice")
            return Choice("required", frozenset({name}), {"type": "function", "name": choice["name"]})
        case "allowed_tools":
            return _allowed(choice, toolbox)
        case kind if isinstance(kind, str) and kind in OTHER_KINDS:
            raise BadRequestError(f"tool_choice forces {kind}, which is not served", "tool_choice.type")
        case kind:
            raise _unknown_kind(kind, "tool_choice.type")


def _allowed(choice: Mapping[str, Any], toolbox: Toolbox) -> Choice:
    allowed = convert(choice, _AllowedTools, "tool_choice")
    names: set[str] = set()
    namespaces: set[str] = set()
    shown: list[dict[str, Any]] = []
    for index, entry in enumerate(allowed.tools):
        place = f"tool_choice.tools[{index}]"
        match entry.get("type"):
            case "function":
                names.add(_named(entry, toolbox, place))
                shown.append({"type": "function", "name": entry["name"]})
            case "namespace":
                inside = toolbox.inside(entry.get("name"))
                if not inside:
                    raise BadRequestError(f"{place}.name is not the name of a namespace", f"{place}.name")
                # Named again and again, all of a namespace would be added each time.
                if entry["name"] not in namespaces:
                    namespaces.add(entry["name"])
                    names.update(inside)
                shown.append({"type": "namespace", "name": entry["name"]})
            case kind if isinstance(kind, str) and kind in OTHER_KINDS:
                toolbox.warnings.append(f"{place}: {kind}: not served")
            case kind:
                raise _unknown_kind(kind, f"{place}.type")
    asked: ToolChoice = allowed.mode or "auto"
    if not names and (asked == "required" or not allowed.tools):
        raise BadRequestError("tool_choice.tools allows no function", "tool_choice.tools")
    echo = {"type": "allowed_tools", "mode": asked, "tools": shown}
    mode = asked if names else "none"
    return Choice(mode, frozenset(names) if mode != "none" else frozenset(), echo)


def _named(entry: Mapping[str, Any], toolbox: Toolbox, place: str) -> str:
    name, namespace = entry.get("name"), entry.get("namespace")
    found = None
    if isinstance(name, str) and (namespace is None or isinstance(namespace, str)):
        found = toolbox.find(name, namespace)
    if found is None:
        param = f"{place}.name"
        said = quoted(name) if isinstance(name, str) else "no text"
        raise BadRequestError(f"{param} is {said}, and no function is called that", param)
    return found


def _unknown_kind(kind: object, param: str) -> BadRequestError:
    said = quoted(kind) if isinstance(kind, str) else "no text"
    return BadRequestError(f"{param} is {said}, which is no kind of tool", param)
