"""What is wrong with a request is said over HTTP, briefly, before anything runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.errors import BadRequestError
from tests.unit.api.scripted import (
    BODIES,
    CHAT,
    COMPLETIONS,
    MAX_MODEL_LEN,
    MESSAGES,
    PATHS,
    RESPONSES,
    message_of,
    scripted_service,
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"model": ', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"a": ' * 5000, "not valid JSON"),
        (b'{"a": "x\\u0000y"}', "NUL"),
        ('{"model": "x"}'.encode("utf-16"), "not valid JSON"),
    ],
    ids=["nothing", "cut", "no UTF-8", "a list", "deep", "NUL", "UTF-16"],
)
async def test_what_is_no_request(path: str, content: bytes, words: str) -> None:
    async with scripted_service() as service:
        headers = {"content-type": "application/json"}
        answer = await service.request("POST", path, content=content, headers=headers)
        assert answer.status_code == 400
        message_of(answer)
        assert service.asked == []


async def test_a_page_cannot_post_without_asking_the_browser() -> None:
    async with scripted_service() as service:
        content = json.dumps(BODIES[CHAT]).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            answer = await service.request("POST", CHAT, content=content, headers={"content-type": kind})
            assert (answer.status_code, "content-type" in message_of(answer)) == (400, True)


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_model(path: str) -> None:
    async with scripted_service() as service:
        answer = await service.post(path, model="gpt-5")
        assert answer.status_code == 404
        assert "gpt-5" in message_of(answer)
        if path != MESSAGES:
            assert answer.json()["error"]["code"] == "model_not_found"
        assert service.asked == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long(path: str, stream: bool) -> None:
    async with scripted_service() as service:
        field = {CHAT: "messages", MESSAGES: "messages", RESPONSES: "input", COMPLETIONS: "prompt"}[path]
        text = "hello " * MAX_MODEL_LEN
        value = [{"role": "user", "content": text}] if field == "messages" else text
        answer = await service.post(path, stream=stream, **{field: value})
        assert answer.status_code == 400
        assert "tokens" in message_of(answer)
        if path != MESSAGES:
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", field)
        assert service.engines.started == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "max_tokens"),
        (CHAT, "max_completion_tokens"),
        (COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
        (MESSAGES, "max_tokens"),
    ],
)
async def test_more_tokens_than_the_model_has(path: str, field: str) -> None:
    async with scripted_service() as service:
        answer = await service.post(path, **{field: MAX_MODEL_LEN + 1})
        assert answer.status_code == 400
        assert field in message_of(answer)


async def test_a_grammar_that_is_none_asks_nobody() -> None:
    async with scripted_service() as service:

        async def refuse(tag: str, param: str) -> None:
            raise BadRequestError("no grammar", param)

        service.check_grammar = refuse
        answer = await service.post(response_format={"type": "json_object"}, stream=True)
        assert (answer.status_code, message_of(answer)) == (400, "no grammar")
        assert answer.json()["error"]["param"] == "response_format"
        assert service.asked == []


@pytest.mark.parametrize(
    "options",
    [{"allowed_token_ids": [1]}, {"bad_words": ["a"]}, {"min_tokens": 5}, {"stop_token_ids": [200008]}],
    ids=str,
)
async def test_what_may_leave_a_grammar_without_tokens(options: dict[str, Any]) -> None:
    async with scripted_service() as service:
        answer = await service.post(response_format={"type": "json_object"}, **options)
        [name] = options
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
        assert "response_format" in message_of(answer)
        assert (await service.post(**options)).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_declared", [False, True])
async def test_a_body_that_is_too_large(path: str, is_declared: bool) -> None:
    async with scripted_service(app={"max_body_bytes": 1024}) as service:
        content = json.dumps(BODIES[path] | {"padding": "x" * 2000}).encode()

        async def pieces() -> Any:
            yield content

        headers = {"content-type": "application/json"}
        sent = content if is_declared else pieces()
        answer = await service.request("POST", path, content=sent, headers=headers)
        assert answer.status_code == 413
        assert "1024 bytes" in message_of(answer)
        assert ("type" in answer.json()) == (path == MESSAGES)


async def test_errors_are_short_whatever_is_sent() -> None:
    async with scripted_service() as service:
        for body in (
            {"model": "x" * 50_000},
            {"messages": [{"role": "x" * 50_000, "content": ""}]},
            {"messages": [{"role": "user", "content": [{"type": "\U0001f600" * 20_000}]}]},
            {"x" * 50_000 + "\0": 1},
            {"reasoning_effort": "\u0001" * 50_000},
            {"tools": [{"type": "function", "function": {"name": "f" * 50_000}}]},
        ):
            answer = await service.post(**body)
            assert answer.status_code in (400, 404)
            message_of(answer)


@pytest.mark.parametrize(
    "path", ["/tokenize", "/detokenize", f"{RESPONSES}/input_tokens", f"{MESSAGES}/count_tokens"]
)
async def test_no_depth_is_a_fault_of_the_service(path: str) -> None:
    async with scripted_service() as service:
        for depth in (100, 300, 900, 950, 1000, 5000):
            deep = b"[" * depth + b"]" * depth
            fields = b",".join(b'"%b":%b' % (name, deep) for name in (b"tools", b"messages", b"input"))
            headers = {"content-type": "application/json"}
            answer = await service.request("POST", path, content=b"{%b}" % fields, headers=headers)
            assert answer.status_code == 400, answer.text
            message_of(answer)
