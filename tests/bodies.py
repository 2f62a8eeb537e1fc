"""Request bodies for fuzzing: valid ones of the three APIs, each with a few things wrong with it."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.services import MODEL

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "required": ["city"],
    "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "kind": {"enum": ["a", "b"]}},
    "required": ["name"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "Get the weather.", "parameters": PARAMETERS}
TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}

CHAT: list[dict[str, Any]] = [
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]},
            {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [TOOL_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 3,
    },
    {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 1,
        "top_p": 0.9,
        "seed": 1,
        "n": 1,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "presence_penalty": 0.1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        "max_tokens": 3,
    },
]
RESPONSES: list[dict[str, Any]] = [
    {
        "model": MODEL,
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm."}],
            },
            {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        ],
        "tools": [{"type": "function", **FUNCTION, "strict": True}],
        "tool_choice": {"type": "function", "name": "get_weather"},
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "stream": True,
        "max_output_tokens": 3,
    },
    {
        "model": MODEL,
        "input": "hi",
        "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}, "verbosity": "low"},
        "temperature": 1,
        "top_p": 0.9,
        "metadata": {"key": "value"},
        "truncation": "disabled",
        "service_tier": "auto",
        "max_output_tokens": 3,
    },
]
MESSAGES: list[dict[str, Any]] = [
    {
        "model": MODEL,
        "max_tokens": 3,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Weather in Paris?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "content": [{"type": "text", "text": "sunny"}],
                        "is_error": False,
                    }
                ],
            },
        ],
        "tools": [{"name": "get_weather", "description": "Weather.", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stream": True,
    },
    {
        "model": MODEL,
        "max_tokens": 3,
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 1,
        "top_p": 0.9,
        "top_k": 5,
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    },
]

# What only asks for more work: a limit on it is no less a test.
MAX_TOKENS = 4
LIMITS = {"max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"}
CHOICES = {"n", "best_of", "top_logprobs", "num_choices"}
MAX_CHOICES = 3


def deep(levels: int, is_list: bool) -> Any:
    """Something nested `levels` deep."""
    value: Any = "end"
    for _ in range(levels):
        value = [value] if is_list else {"properties": value}
    return value


TEXTS = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",  # half a character: JSON can say it, UTF-8 cannot
        "Grüße 👋",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
        "assistant",
        "developer",
        "auto",
        "required",
        "none",
        "type",
        "functions.get_weather",
        "../../etc/passwd",
        "#/$defs/missing",
        "(a+)+$",
        "1e999",
        "x" * 5000,
    ]
)
NUMBERS = st.sampled_from(
    [
        0,
        -1,
        1,
        2,
        3,
        0.5,
        -0.0,
        1.5,
        2**31,
        -(2**31),
        2**53 + 1,
        2**63,
        2**64,
        -(2**64),
        10**40,
        1e300,
        -1e-300,
        1e16,
    ]
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.text(max_size=20))
VALUES = st.one_of(
    LEAVES,
    st.builds(dict),
    st.builds(list),
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.builds(deep, st.sampled_from([3, 30, 150]), st.booleans()),
)
# Of the kinds that the APIs have, in places where they may not stand.
PARTS: list[dict[str, Any]] = [
    {"type": "text", "text": "x"},
    {"type": "input_text", "text": "x"},
    {"type": "output_text", "text": "x", "annotations": []},
    {"type": "refusal", "refusal": "x"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    {"type": "input_image", "image_url": "https://example.com/a.png"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
    {"type": "thinking", "thinking": "x", "signature": "AAAA"},
    {"type": "redacted_thinking", "data": "AAAA"},
    {"type": "reasoning", "summary": [], "encrypted_content": "AAAA"},
    {"type": "item_reference", "id": "msg_1"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "custom_tool_call", "call_id": "c", "name": "n", "input": "x"},
    {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{"},
    {"type": "function_call_output", "call_id": "nobody", "output": [{"type": "input_text", "text": "x"}]},
    {"type": "tool_use", "id": "t", "name": "n", "input": {}},
    {"type": "tool_result", "tool_use_id": "nobody", "content": "x"},
    {"type": "web_search"},
    {"type": "custom", "name": "n"},
    {"type": "namespace", "name": "n", "tools": []},
    {"type": "allowed_tools", "mode": "auto", "tools": []},
    {"type": "json_object"},
    {"$ref": "#"},
    {"type": "string", "pattern": "(a|b)*c{2,}"},
    {"role": "assistant", "content": "so far"},
    {"role": "developer", "content": "x"},
    {"role": "tool", "content": "x"},
]
WRONG = st.one_of(VALUES, st.sampled_from(PARTS).map(copy.deepcopy))

Place = tuple[Any, Any]


def places(value: Any) -> list[Place]:
    """Every place in a body: what holds it, and under which key or index."""
    found: list[Place] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        inner = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, item in inner:
            found.append((holder, key))
            if isinstance(item, dict | list) and len(found) < 500:
                waiting.append(item)
    return found


@st.composite
def changed(draw: st.DrawFn, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """A valid body with one to four changes."""
    body: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(bodies)))
    for _ in range(draw(st.integers(1, 4))):
        found = places(body)
        if not found:
            break
        holder, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(["replace", "replace", "delete", "repeat", "add", "mix"])):
            case "replace":
                holder[key] = draw(WRONG)
            case "delete":
                del holder[key]
            case "repeat" if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(WRONG)
            case "add" if isinstance(holder, list):
                holder.insert(key, draw(WRONG))
            case "mix":
                other = copy.deepcopy(draw(st.sampled_from(bodies)))
                name = draw(st.sampled_from(sorted(other)))
                body[name] = other[name]
    return body


def limited(body: Any, limit: str) -> Any:
    """A body that asks for a few tokens at most, of the served model as a rule."""
    if not isinstance(body, dict):
        return body
    body = dict(body)
    for key in LIMITS & body.keys():
        if isinstance(body[key], int) and body[key] > MAX_TOKENS:
            body[key] = MAX_TOKENS
    for key in CHOICES & body.keys():
        if isinstance(body[key], int) and body[key] > MAX_CHOICES:
            body[key] = MAX_CHOICES
    if not LIMITS - {"min_tokens"} & {key for key, value in body.items() if value is not None}:
        body[limit] = 2
    return body


def encode(body: Any) -> bytes:
    """JSON that says everything that a body may hold, halves of characters included."""
    return json.dumps(body, allow_nan=True).encode()


def server_errors(status: int, text: str) -> list[str]:
    """What of an answer is the service's fault: a 5xx, or an error event of that kind in a stream."""
    if status >= 500:
        return [f"{status}: {text[:2000]}"]
    return [
        line
        for line in text.splitlines()
        if line.startswith("data: {") and _is_server_error(json.loads(line.removeprefix("data: ")))
    ]


def _is_server_error(event: dict[str, Any]) -> bool:
    error = event.get("error")
    if event.get("type") == "response.failed":
        return True
    if event.get("type") == "error" and "code" in event:
        error = event
    if not isinstance(error, dict):
        return False
    return error.get("type") in ("server_error", "api_error") or error.get("code") == "server_error"
