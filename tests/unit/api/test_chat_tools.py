"""What a request of Chat Completions offers to call."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.harmony.conversation import Tool
from tests.unit.api.chat_bodies import CITY, TOOLS, conversation_of, exchange, offer_of, refusal


def test_tools_are_offered() -> None:
    asked = exchange(tools=TOOLS)
    assert conversation_of(asked).tools == (Tool("weather", "Of a city.", CITY), Tool("now"))
    assert offer_of(asked).tools == {"weather", "now"}
    assert offer_of(asked).is_parallel
    assert asked.grammar is None
    assert offer_of(exchange(tools=TOOLS, tool_choice="auto")) == offer_of(asked)
    assert not offer_of(exchange(tools=TOOLS, parallel_tool_calls=False)).is_parallel
    assert offer_of(exchange(tools=[{"function": {"name": "now"}}])).tools == {"now"}


def test_no_tools_by_choice() -> None:
    asked = exchange(tools=TOOLS, tool_choice="none")
    assert conversation_of(asked).tools == ()
    assert offer_of(asked).tools == offer_of(asked).forbidden_tools == frozenset()
    assert exchange(tool_choice="none").grammar is None


def test_a_call_is_forced() -> None:
    asked = exchange(tools=TOOLS, tool_choice="required")
    assert asked.grammar
    assert asked.grammar.param == "tools"
    assert "functions.weather" in asked.grammar.structural_tag
    assert "functions.now" in asked.grammar.structural_tag
    asked = exchange(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "now"}})
    assert asked.grammar
    assert "functions.weather" not in asked.grammar.structural_tag
    assert offer_of(asked).tools == {"now"}
    assert offer_of(asked).forbidden_tools == {"weather"}
    assert len(conversation_of(asked).tools) == 2


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tools_are_allowed(mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "weather"}}]}
    for choice in ({"type": "allowed_tools", "allowed_tools": allowed}, {"type": "allowed_tools"} | allowed):
        asked = exchange(tools=TOOLS, tool_choice=choice)
        assert offer_of(asked).tools == {"weather"}
        assert offer_of(asked).forbidden_tools == {"now"}
        assert len(conversation_of(asked).tools) == 2
        assert (asked.grammar is not None) == (mode == "required")


ALLOWED = "tool_choice.allowed_tools"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"functions": []}, "functions"),
        ({"tools": "x"}, "tools"),
        ({"tools": TOOLS * 600}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [*TOOLS, {"type": "custom", "custom": {"name": "x"}}]}, "tools[2]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        *(
            ({"tools": [{"type": "function", "function": {"name": name}}]}, "tools[0].function.name")
            for name in ("", " ", "a b", "a" * 129, "a<|end|>", "a\nb", 'a"b', 5, None)
        ),
        ({"tools": [{"function": {"name": "f", "parameters": "x"}}]}, "tools[0].function.parameters"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool_choice"),
        ({"function_call": "auto"}, "function_call"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": 5}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": 5}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": "now"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "then"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.mode"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": 5}}, f"{ALLOWED}.mode"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
         f"{ALLOWED}.tools"),
        ({"tools": TOOLS, "tool_choice": {
            "type": "allowed_tools", "mode": "auto", "tools": [{"function": {"name": "x"}}]}},
         "tool_choice.tools[0]"),
    ],
)  # fmt: skip
def test_tools_that_cannot_be_offered(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert str(error).startswith(param)


def test_tool_schemas_are_checked() -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "banana"}}}
    error = refusal(tools=[TOOLS[0], {"type": "function", "function": {"name": "f", "parameters": wrong}}])
    assert error.param == "tools[1].function.parameters"
    assert "banana" in str(error)
    # A reference to nowhere is read by the model only, unless the arguments must follow it.
    lost = {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}
    tools = [TOOLS[1], {"type": "function", "function": {"name": "f", "parameters": lost}}]
    assert exchange(tools=tools).grammar is None
    assert refusal(tools=tools, tool_choice="required").param == "tools[1].function.parameters"
    now = {"type": "function", "function": {"name": "now"}}
    assert exchange(tools=tools, tool_choice=now).grammar
