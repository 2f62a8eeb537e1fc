"""Bad input: a 4xx that says what is wrong and where, in a sentence, at once; and the service goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.services import MODEL, Service
from tests.waiting import wait_until

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
NOWHERE = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}
# Of a context of 32,768 tokens.
MANY_TOKENS = 32_769
# xgrammar would compile it for minutes, and nothing in it can be stopped.
SLOW_REGEX = "((a{0,100}){0,100}){0,100}"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
INPUT_IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
IMAGE_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
MAX_ERROR_BYTES = 2048
# Reading, checking and, for the slowest of them, compiling until the limit take seconds; what is not bounded
# takes minutes, and some of it for ever. A busy machine lies between.
MAX_SECONDS = 300.0
# After what takes longer, another client's stream is looked at before all is over.
SLOW_SECONDS = 1.0


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": USER, "max_tokens": 3} | changes


def response(input_: Any, **changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": input_, "max_output_tokens": 3} | changes


def message(*content: Any, **changes: Any) -> dict[str, Any]:
    """Messages of one user turn, of blocks, or of whole turns."""
    turns = (
        list(content) if content and "role" in content[0] else [{"role": "user", "content": list(content)}]
    )
    return {"model": MODEL, "max_tokens": 3, "messages": turns if content else USER} | changes


def tool(parameters: object) -> list[object]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


def called(name: str = "f") -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    return {"role": "assistant", "tool_calls": [call]}


def json_schema(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def wide(number: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"field_{index}": {"type": "string"} for index in range(number)}}


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
    "max_tokens over the maximum": (CHAT, chat(max_tokens=MANY_TOKENS)),
    "max_tokens over the maximum, completion": (
        COMPLETIONS,
        {"model": MODEL, "prompt": "a", "max_tokens": MANY_TOKENS},
    ),
    "max_output_tokens over the maximum": (
        RESPONSES,
        {"model": MODEL, "input": "hi", "max_output_tokens": MANY_TOKENS},
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
    # What a model without eyes cannot read, wherever it stands.
    "image": (CHAT, chat(messages=[{"role": "user", "content": [IMAGE]}])),
    "image in a tool's result": (
        CHAT,
        chat(messages=[*USER, called(), {"role": "tool", "tool_call_id": "call_1", "content": [IMAGE]}]),
    ),
    "image, responses": (RESPONSES, response([{"role": "user", "content": [INPUT_IMAGE]}])),
    "image in a tool's result, responses": (
        RESPONSES,
        response(
            [
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": [INPUT_IMAGE]},
            ]
        ),
    ),
    "image, messages": (MESSAGES, message(IMAGE_BLOCK)),
    "image in a tool's result, messages": (
        MESSAGES,
        message(
            *USER,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE_BLOCK]}],
            },
        ),
    ),
    "document, messages": (MESSAGES, message({"type": "document", "source": {"type": "text", "data": "x"}})),
    # Tools and choices of them.
    "unknown choice": (CHAT, chat(tools=tool({}), tool_choice="sometimes")),
    "choice of an unknown type": (CHAT, chat(tools=tool({}), tool_choice={"type": "magic"})),
    "choice without tools": (CHAT, chat(tool_choice="required")),
    "tool of another type": (CHAT, chat(tools=[{"type": "web_search"}])),
    "name of a tool that no header can hold": (
        CHAT,
        chat(tools=[{"type": "function", "function": {"name": "a b<|end|>"}}]),
    ),
    "unknown choice, responses": (RESPONSES, response("hi", tool_choice="sometimes")),
    "choice that is not offered, responses": (
        RESPONSES,
        response("hi", tool_choice={"type": "function", "name": "g"}),
    ),
    "forced tool that is not served": (RESPONSES, response("hi", tool_choice={"type": "web_search"})),
    "tool of an unknown type, responses": (RESPONSES, response("hi", tools=[{"type": "magic"}])),
    "unknown choice, messages": (MESSAGES, message(tool_choice={"type": "sometimes"})),
    "choice that is not offered, messages": (MESSAGES, message(tool_choice={"type": "tool", "name": "g"})),
    # Results of calls that nobody has made.
    "result of no call, chat": (
        CHAT,
        chat(messages=[*USER, {"role": "tool", "tool_call_id": "none", "content": "x"}]),
    ),
    "result before its call": (
        CHAT,
        chat(messages=[*USER, {"role": "tool", "tool_call_id": "call_1", "content": "x"}, called()]),
    ),
    "result of no call, messages": (
        MESSAGES,
        message({"type": "tool_result", "tool_use_id": "none", "content": "x"}),
    ),
    "item of an unknown type": (RESPONSES, response([{"type": "magic"}])),
    "block of an unknown type": (MESSAGES, message({"type": "magic"})),
    # Schemas and other grammars.
    "reference to nowhere": (CHAT, chat(response_format=json_schema(NOWHERE))),
    "reference to nowhere, of a tool that must be called": (
        CHAT,
        chat(tools=tool(NOWHERE), tool_choice="required"),
    ),
    "reference to nowhere, responses": (
        RESPONSES,
        response("hi", text={"format": {"type": "json_schema", "name": "x", "schema": NOWHERE}}),
    ),
    "reference to nowhere, messages": (
        MESSAGES,
        message(output_config={"format": {"type": "json_schema", "schema": NOWHERE}}),
    ),
    "reference in a circle": (CHAT, chat(response_format=json_schema({"$ref": "#"}))),
    "deep schema": (CHAT, chat(response_format=json_schema(nested(400)))),
    "deep schema of a tool": (CHAT, chat(tools=tool(nested(400)))),
    "deep schema of a tool, messages": (
        MESSAGES,
        message(tools=[{"name": "f", "input_schema": nested(400)}]),
    ),
    "huge schema": (CHAT, chat(response_format=json_schema(wide(20_000)))),
    "huge schema of a tool, responses": (
        RESPONSES,
        response("hi", tools=[{"type": "function", "name": "f", "parameters": wide(20_000)}]),
    ),
    "regex that compiles for minutes": (CHAT, chat(structured_outputs={"regex": SLOW_REGEX})),
    "regex that compiles for minutes, stream": (
        CHAT,
        chat(structured_outputs={"regex": SLOW_REGEX}, stream=True),
    ),
    "regex that compiles for minutes, responses": (
        RESPONSES,
        response("hi", structured_outputs={"regex": "(" + "a|" * 9 + "b){0,1000}" + SLOW_REGEX}),
    ),
    "regex that compiles for minutes, completion": (
        COMPLETIONS,
        {"model": MODEL, "prompt": "a", "structured_outputs": {"regex": SLOW_REGEX}},
    ),
    "pattern that compiles for minutes": (
        CHAT,
        chat(response_format=json_schema({"type": "string", "pattern": SLOW_REGEX})),
    ),
    "grammar that is none": (CHAT, chat(structured_outputs={"grammar": "root ::= undefined"})),
    "too many formats": (CHAT, chat(structured_outputs={"regex": "a", "choice": ["b"]})),
    # Bodies whose errors are long where each member of a union is told of.
    "no kind of content at all": (CHAT, chat(messages=[{"role": "user", "content": {"x": 1}}])),
    "items of the wrong type": (RESPONSES, response([[{}]])),
    "many wrong parts": (CHAT, chat(messages=[{"role": "user", "content": [{}] * 1000}])),
    "long names": (CHAT, chat(messages=[{"role": "wizard" * 100_000, "content": "x"}])),
    "long name of a model": (CHAT, chat(model="x" * 100_000)),
    "content-type of a form": ("form", chat()),
    # What would need a store.
    "unknown response": (RESPONSES, {"model": MODEL, "input": "hi", "previous_response_id": "resp_none"}),
    "background without a store": (RESPONSES, {"model": MODEL, "input": "hi", "background": True}),
    "result of no call": (
        RESPONSES,
        {"model": MODEL, "input": [{"type": "function_call_output", "call_id": "none", "output": "x"}]},
    ),
    "token id that is none": ("/detokenize", {"model": MODEL, "tokens": [-1]}),
}


# The place that an error names, where the body is good enough to have one.
NO_PLACE = {
    "what speculation cannot do",
    "what speculation cannot do, stream",
    "raw NUL byte",
    "invalid UTF-8",
    "half a surrogate pair",
    "malformed JSON",
    "not an object",
    "nothing",
    "nested a thousand times too deep",
    "content-type of a form",
}


def post(service: Service, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    is_form = path == "form"
    headers = {"content-type": "text/plain" if is_form else "application/json"}
    url = f"{service.url}{CHAT if is_form else path}"
    return httpx.post(url, content=content, headers=headers, timeout=2 * MAX_SECONDS)


def assert_refused(response: httpx.Response, status: range, *, has_place: bool = False) -> None:
    assert response.status_code in status, response.text
    assert response.headers["content-type"] == "application/json"
    assert len(response.content) < MAX_ERROR_BYTES
    body = response.json()
    error = body["error"]
    assert error["message"]
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    is_anthropic = response.request.url.path.startswith(MESSAGES)
    if is_anthropic:
        assert set(body) == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert set(error) == {"type", "message"}
        assert error["type"] in ("invalid_request_error", "not_found_error", "request_too_large")
    else:
        assert set(body) == {"error"}
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["code"] is None or isinstance(error["code"], str)
        assert bool(error["param"]) or not has_place


@contextmanager
def another_client(service: Service) -> Iterator[list[float]]:
    """Streams all the while. Yields when its events came; fails if its stream does not go on."""
    came: list[float] = []
    errors: list[str] = []
    is_enough = threading.Event()
    # Of a text, all tokens are shown: a chat has nothing to say behind its end.
    body = {"model": MODEL, "prompt": "1, 2,", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    body["skip_special_tokens"] = False

    def read() -> None:
        while not is_enough.is_set():
            with httpx.stream(
                "POST", f"{service.url}{COMPLETIONS}", json=body, timeout=MAX_SECONDS
            ) as response:
                for line in response.iter_lines():
                    if '"error"' in line:
                        errors.append(line)
                    if line.startswith("data: {"):
                        came.append(time.monotonic())
                    if is_enough.is_set():
                        return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield came
    finally:
        is_enough.set()
        thread.join(MAX_SECONDS)
    assert not errors


@pytest.fixture(scope="module")
def events(service: Service) -> Iterator[list[float]]:
    """When the events of another client's stream came, while all that is wrong is sent."""
    with another_client(service) as came:
        yield came


@pytest.mark.parametrize("name", BODIES)
def test_refused(service: Service, events: list[float], name: str) -> None:
    path, body = BODIES[name]
    began = time.monotonic()
    response = post(service, path, body)
    took = time.monotonic() - began
    assert_refused(response, range(400, 405), has_place=name not in NO_PLACE)
    assert took < MAX_SECONDS
    if took > SLOW_SECONDS:
        wait_for_event(events)


def wait_for_event(events: list[float]) -> None:
    """Until the other client has heard from its engine once more."""
    now = time.monotonic()
    wait_until(
        lambda: events and events[-1] >= now,
        MAX_SECONDS,
        lambda: "the other stream stands still",
        interval_s=0.01,
    )


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


def test_the_service_goes_on(service: Service, events: list[float]) -> None:
    """Runs after the others of this module."""
    wait_for_event(events)
    assert post(service, CHAT, chat()).status_code == 200
    assert httpx.get(f"{service.url}/health").json()["ready_engines"] == 2
