import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.application import AnthropicErrors, new_app
from serve_app.errors import EngineUnavailableError, OverloadedError

MAX_BODY_BYTES = 1000
MAX_MODEL_LEN = 64
JSON = {"content-type": "application/json"}


class Completion(BaseModel):
    """As a route of vLLM's takes it."""

    prompt: str = ""
    max_tokens: int | None = None
    messages: list[dict[str, str]] | None = None


def build(num_ready_engines: Callable[[], int] = lambda: 1) -> FastAPI:
    """The application with routes that are included after it was made."""
    app = new_app(MAX_BODY_BYTES, MAX_MODEL_LEN, num_ready_engines)
    router = APIRouter()

    @router.post("/v1/completions")
    @router.post("/v1/messages")
    def complete(body: Completion) -> dict[str, str]:
        return {"text": body.prompt}

    @router.post("/overloaded")
    @router.post("/v1/messages/overloaded")
    def overloaded(body: Completion) -> None:
        raise OverloadedError("the queue is full")

    @router.get("/teapot")
    def teapot() -> None:
        raise HTTPException(418, "short and stout")

    app.include_router(router)
    return app


def request(app: FastAPI, method: str, path: str, **options: Any) -> httpx2.Response:
    async def answer() -> httpx2.Response:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(answer())


def post_bytes(path: str, content: bytes) -> httpx2.Response:
    return request(build(), "POST", path, content=content, headers={"content-type": "application/json"})


def error(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


# --- health --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_health_follows_the_engines(path: str) -> None:
    num_ready = 2

    def ready() -> int:
        if not num_ready:
            raise EngineUnavailableError("no engine replica is ready")
        return num_ready

    app = build(ready)
    answer = request(app, "GET", path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "ready_engines": 2})
    num_ready = 0
    answer = request(app, "GET", path)
    assert answer.status_code == 503
    assert answer.json() == error("no engine replica is ready", "Service Unavailable", 503)
    num_ready = 1
    assert request(app, "GET", path).json() == {"status": "ready", "ready_engines": 1}


def test_an_ingress_is_alive_without_engines() -> None:
    def ready() -> int:
        raise EngineUnavailableError("no engine replica is ready")

    answer = request(build(ready), "GET", "/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


def test_health_needs_no_worker_thread() -> None:
    """They may all be busy. A coroutine of FastAPI's runs in the event loop."""
    loops: list[object] = []

    def ready() -> int:
        loops.append(asyncio.get_running_loop())
        return 1

    assert request(build(ready), "GET", "/health/ready").status_code == 200
    assert len(loops) == 1


# --- rules ---------------------------------------------------------------------------------------------


def test_a_request_that_keeps_the_rules() -> None:
    answer = request(build(), "POST", "/v1/completions", json={"prompt": "a", "max_tokens": MAX_MODEL_LEN})
    assert (answer.status_code, answer.json()) == (200, {"text": "a"})


def test_the_rules_hold_for_routes_that_are_included_later() -> None:
    answer = request(build(), "POST", "/v1/completions", json={"max_tokens": MAX_MODEL_LEN + 1})
    assert answer.status_code == 400
    message = "max_tokens is 65; this model generates at most 64 tokens, prompt included"
    assert answer.json() == error(message, "Bad Request", 400, "max_tokens")


def test_nul_is_found_in_the_body_as_it_came() -> None:
    answer = post_bytes("/v1/completions", rb'{"prompt": "a\u0000"}')
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    answer = post_bytes("/v1/completions", rb'{"prompt": "a\\u0000"}')
    assert (answer.status_code, answer.json()) == (200, {"text": r"a\u0000"})


def test_nul_is_found_in_utf_16() -> None:
    answer = post_bytes("/v1/completions", r'{"prompt": "a\u0000"}'.encode("utf-16"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


def test_a_schema_that_is_nested_too_deeply() -> None:
    schema = '{"not": ' * 400 + "{}" + "}" * 400
    app = new_app(10**6, MAX_MODEL_LEN, lambda: 1)

    @app.post("/v1/completions")
    def complete(body: Completion) -> str:
        raise AssertionError("the route is called")

    content = f'{{"tools": [{{"parameters": {schema}}}]}}'.encode()
    answer = request(app, "POST", "/v1/completions", content=content, headers=JSON)
    message = "tools[0].parameters is nested too deeply"
    assert (answer.status_code, answer.json()) == (
        400,
        error(message, "Bad Request", 400, "tools[0].parameters"),
    )


@pytest.mark.parametrize("content", [b"", b"cancel it", b"\xff\xfe\xfd", b"[" * 100_000])
def test_a_route_without_a_body_takes_any(content: bytes) -> None:
    app = new_app(10**6, MAX_MODEL_LEN, lambda: 1)

    @app.post("/v1/responses/{name}/cancel")
    def cancel(name: str) -> str:
        return name

    for headers in ({}, {"content-type": "text/plain"}, JSON):
        answer = request(app, "POST", "/v1/responses/r1/cancel", content=content, headers=headers)
        assert (answer.status_code, answer.json()) == (200, "r1")


def test_what_is_not_json_is_left_to_the_route() -> None:
    """As vLLM's routes refuse it: in a dependency, before the request model is looked at."""
    app = new_app(MAX_BODY_BYTES, MAX_MODEL_LEN, lambda: 1)

    def refuse() -> None:
        raise HTTPException(415, "Unsupported Media Type")

    @app.post("/v1/completions", dependencies=[Depends(refuse)])
    def complete(body: Completion) -> str:
        raise AssertionError("the route is called")

    for content in (b"", b"a prompt"):
        answer = request(
            app, "POST", "/v1/completions", content=content, headers={"content-type": "text/plain"}
        )
        assert answer.status_code == 415
        assert answer.json()["error"]["message"] == "Unsupported Media Type"


def test_the_rules_come_before_the_request_model() -> None:
    answer = request(build(), "POST", "/v1/completions", json={"prompt": 1, "messages": []})
    assert answer.json() == error("messages must not be empty", "Bad Request", 400, "messages")


# --- errors --------------------------------------------------------------------------------------------


def test_an_error_of_the_service() -> None:
    answer = request(build(), "POST", "/overloaded", json={})
    assert answer.status_code == 429
    assert answer.json() == error("the queue is full", "Too Many Requests", 429)


def test_no_such_route() -> None:
    answer = request(build(), "GET", "/v1/none")
    assert (answer.status_code, answer.json()) == (404, error("Not Found", "Not Found", 404))


def test_no_such_method() -> None:
    answer = request(build(), "GET", "/v1/completions")
    assert answer.status_code == 405
    assert answer.json() == error("Method Not Allowed", "Method Not Allowed", 405)
    assert answer.headers["allow"] == "POST"


def test_an_http_exception_of_a_route() -> None:
    answer = request(build(), "GET", "/teapot")
    assert (answer.status_code, answer.json()) == (418, error("short and stout", "I'm a Teapot", 418))


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        (
            "POST",
            "/v1/messages",
            {"messages": []},
            error("messages must not be empty", "Bad Request", 400, "messages"),
        ),
        ("POST", "/v1/messages/overloaded", {}, error("the queue is full", "Too Many Requests", 429)),
        ("GET", "/v1/messages", None, error("Method Not Allowed", "Method Not Allowed", 405)),
        ("GET", "/v1/messages/none", None, error("Not Found", "Not Found", 404)),
    ],
)
def test_anthropics_clients_find_their_mark(
    method: str, path: str, body: Any, expected: dict[str, Any]
) -> None:
    answer = request(build(), method, path, json=body)
    assert answer.status_code == expected["error"]["code"]
    assert answer.json() == expected | {"type": "error"}


@pytest.mark.parametrize(
    ("content", "code"),
    [(b'{"prompt": 1}', 400), (b"{", 400), (b"\xff\xfe", 400), (b" " * (MAX_BODY_BYTES + 1), 413)],
)
@pytest.mark.parametrize("is_declared", [True, False])
def test_anthropics_mark_is_in_errors_of_other_handlers(content: bytes, code: int, is_declared: bool) -> None:
    """vLLM brings a handler of validation errors."""
    app = build()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse(error("it is invalid", "Bad Request", 400), 400)

    async def chunks() -> Any:
        yield content

    sent = content if is_declared else chunks()
    answer = request(app, "POST", "/v1/messages", content=sent, headers=JSON)
    assert answer.status_code == code
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["code"] == code
    assert int(answer.headers["content-length"]) == len(answer.content)
    elsewhere = request(app, "POST", "/v1/completions", content=content, headers=JSON)
    assert elsewhere.status_code == code
    assert elsewhere.json().keys() == {"error"}


@pytest.mark.parametrize(
    "response",
    [
        JSONResponse({"error": {"message": "only a field"}}),
        JSONResponse({"type": "other", "error": {}}, 400),
        JSONResponse({"error": "text"}, 400),
        JSONResponse(["error"], 400),
        PlainTextResponse("error", 500),
        StreamingResponse(iter(['{"error":', " {}}"]), 500, media_type="application/json"),
    ],
)
def test_anthropics_mark_is_in_errors_only(response: Response) -> None:
    raw_headers = list(response.raw_headers)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    scope = {"type": "http", "path": "/v1/messages"}
    asyncio.run(AnthropicErrors(response)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    assert sent[0]["status"] == response.status_code
    assert sent[0]["headers"] == raw_headers
    assert body == getattr(response, "body", b'{"error": {}}')


def test_an_error_without_a_body_gets_its_start() -> None:
    start = {"type": "http.response.start", "status": 500, "headers": []}
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(AnthropicErrors(app)({"type": "http", "path": "/v1/messages"}, receive, send))
    assert sent == [start]


@pytest.mark.parametrize("content", [b'{"prompt": "\xff"}', b"\xff\xfe\xfd", b"[" * 100_000])
def test_a_body_that_cannot_be_parsed(content: bytes) -> None:
    """Malformed JSON is a validation error to FastAPI: its handler comes with vLLM's routes."""
    app = new_app(10**6, MAX_MODEL_LEN, lambda: 1)

    @app.post("/v1/completions")
    def complete(body: Completion) -> str:
        raise AssertionError("the route is called")

    answer = request(
        app, "POST", "/v1/completions", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json() == error("There was an error parsing the body", "Bad Request", 400)


def test_a_body_that_is_too_large() -> None:
    content = json.dumps({"prompt": "a" * MAX_BODY_BYTES}).encode()
    message = "the request body is larger than 1000 bytes, the most that is accepted"

    async def chunks() -> Any:
        yield content[:500]
        yield content[500:]

    for body in (content, chunks()):
        answer = post_bytes("/v1/completions", body)
        assert answer.status_code == 413
        found = answer.json()["error"]
        assert (found["message"], found["param"], found["code"]) == (message, None, 413)


# --- streams -------------------------------------------------------------------------------------------


def test_an_error_that_opens_a_stream_is_a_status() -> None:
    app = build()
    body = error("no engine", "Service Unavailable", 503)

    @app.post("/stream")
    def stream(_: Completion) -> StreamingResponse:
        events = [f"data: {json.dumps(body)}\n\n", "data: [DONE]\n\n"]
        return StreamingResponse(iter(events), media_type="text/event-stream")

    answer = request(app, "POST", "/stream", json={})
    assert (answer.status_code, answer.json()) == (503, body)
