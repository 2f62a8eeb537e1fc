"""Bad input: a 4xx with OpenAI's error body, never a 500, and the service goes on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
USER = [{"role": "user", "content": "hi"}]
TOO_LONG = "hello " * 40_000
NOT_A_SCHEMA = {"type": "object", "properties": ["x"]}


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": USER, "max_tokens": 3} | changes


def tool(parameters: object) -> list[object]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


BODIES: dict[str, tuple[str, Any]] = {
    "effort": (CHAT, chat(reasoning_effort="insane")),
    "effort that harmony lacks": (CHAT, chat(reasoning_effort="none")),
    "effort, responses": (RESPONSES, {"model": MODEL, "input": "hi", "reasoning": {"effort": "insane"}}),
    "messages of the wrong type": (CHAT, chat(messages="hi")),
    "temperature of the wrong type": (CHAT, chat(temperature="hot")),
    "temperature out of range": (CHAT, chat(temperature=-1)),
    "content of the wrong type": (CHAT, chat(messages=[{"role": "user", "content": 5}])),
    "unknown role": (CHAT, chat(messages=[{"role": "wizard", "content": "x"}])),
    "no role": (CHAT, chat(messages=[{"content": "x"}])),
    "no messages": (CHAT, {"model": MODEL}),
    "empty messages": (CHAT, chat(messages=[])),
    "empty messages, Anthropic": (MESSAGES, {"model": MODEL, "messages": [], "max_tokens": 3}),
    "empty input": (RESPONSES, {"model": MODEL, "input": []}),
    "empty prompt": (COMPLETIONS, {"model": MODEL, "prompt": ""}),
    "no prompts": (COMPLETIONS, {"model": MODEL, "prompt": []}),
    "token id out of the vocabulary": (COMPLETIONS, {"model": MODEL, "prompt": [300_000]}),
    "too long, chat": (CHAT, chat(messages=[{"role": "user", "content": TOO_LONG}])),
    "too long, chat stream": (CHAT, chat(messages=[{"role": "user", "content": TOO_LONG}], stream=True)),
    "too long, completion": (COMPLETIONS, {"model": MODEL, "prompt": TOO_LONG}),
    "too long, responses": (RESPONSES, {"model": MODEL, "input": TOO_LONG}),
    "too long, responses stream": (RESPONSES, {"model": MODEL, "input": TOO_LONG, "stream": True}),
    "too long, messages": (
        MESSAGES,
        {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": TOO_LONG}]},
    ),
    "max_tokens 0": (CHAT, chat(max_tokens=0)),
    "max_tokens negative": (CHAT, chat(max_tokens=-1)),
    "max_tokens over the maximum": (CHAT, chat(max_tokens=4097)),
    "max_tokens over the maximum, completion": (
        COMPLETIONS,
        {"model": MODEL, "prompt": "a", "max_tokens": 4097},
    ),
    "max_output_tokens over the maximum": (
        RESPONSES,
        {"model": MODEL, "input": "hi", "max_output_tokens": 4097},
    ),
    "n 0": (CHAT, chat(n=0)),
    "n enormous": (CHAT, chat(n=100_000)),
    "too many logprobs": (CHAT, chat(logprobs=True, top_logprobs=1000)),
    "what speculation cannot do": (CHAT, chat(min_p=0.5)),
    "what speculation cannot do, stream": (CHAT, chat(min_p=0.5, stream=True)),
    "tool schema of the wrong type": (CHAT, chat(tools=tool("x"))),
    "tool schema that is none": (CHAT, chat(tools=tool(NOT_A_SCHEMA))),
    "tool schema of an unknown type": (CHAT, chat(tools=tool({"type": "banana"}))),
    "tool schema that is none, responses": (
        RESPONSES,
        {
            "model": MODEL,
            "input": "hi",
            "tools": [{"type": "function", "name": "f", "parameters": NOT_A_SCHEMA}],
        },
    ),
    "tool schema that is none, messages": (
        MESSAGES,
        {
            "model": MODEL,
            "max_tokens": 3,
            "messages": USER,
            "tools": [{"name": "f", "input_schema": NOT_A_SCHEMA}],
        },
    ),
    "tool choice that is not offered": (
        CHAT,
        chat(tools=tool({}), tool_choice={"type": "function", "function": {"name": "g"}}),
    ),
    "response format that is no schema": (
        CHAT,
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "banana"}},
            }
        ),
    ),
    "regex that is none, stream": (CHAT, chat(structured_outputs={"regex": "(("}, stream=True)),
    "NUL in a text": (CHAT, chat(messages=[{"role": "user", "content": "a\0b"}])),
    "raw NUL byte": (
        CHAT,
        b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "\0"}]}',
    ),
    "invalid UTF-8": (
        CHAT,
        b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "\xff"}]}',
    ),
    "half a surrogate pair": (
        CHAT,
        b'{"model": "' + MODEL.encode() + b'", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ),
    "malformed JSON": (CHAT, b'{"model": '),
    "not an object": (CHAT, b"[]"),
    "nothing": (CHAT, b""),
    "nested a thousand times too deep": (CHAT, b'{"messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    "unknown response": (RESPONSES, {"model": MODEL, "input": "hi", "previous_response_id": "resp_none"}),
    "background without a store": (RESPONSES, {"model": MODEL, "input": "hi", "background": True}),
    "result of no call": (
        RESPONSES,
        {"model": MODEL, "input": [{"type": "function_call_output", "call_id": "none", "output": "x"}]},
    ),
    "token id that is none": ("/detokenize", {"model": MODEL, "tokens": [-1]}),
}


def post(service: Service, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    return httpx.post(f"{service.url}{path}", content=content, headers=headers, timeout=60)


def assert_refused(response: httpx.Response, status: range) -> None:
    assert response.status_code in status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["message"]
    assert response.json()["error"]["type"]


@pytest.mark.parametrize("name", BODIES)
def test_refused(service: Service, name: str) -> None:
    path, body = BODIES[name]
    assert_refused(post(service, path, body), range(400, 405))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(model="gpt-5")),
        (CHAT, chat(model="gpt-5", stream=True)),
        (COMPLETIONS, {"model": "gpt-5", "prompt": "hi"}),
        (RESPONSES, {"model": "gpt-5", "input": "hi"}),
        (MESSAGES, {"model": "gpt-5", "max_tokens": 3, "messages": USER}),
    ],
)
def test_unknown_model(service: Service, path: str, body: Any) -> None:
    assert_refused(post(service, path, body), range(404, 405))


def test_body_of_50_megabytes(service: Service) -> None:
    body = chat(messages=[{"role": "user", "content": "x" * 50_000_000}])
    assert_refused(post(service, CHAT, body), range(413, 414))


def test_unknown_path_and_method(service: Service) -> None:
    assert_refused(httpx.get(f"{service.url}/v2/nothing"), range(404, 405))
    assert_refused(httpx.get(f"{service.url}{CHAT}"), range(405, 406))


def test_the_service_goes_on(service: Service) -> None:
    """Runs after the others of this module."""
    assert post(service, CHAT, chat()).status_code == 200
    assert httpx.get(f"{service.url}/health").json()["ready_engines"] == 2
