import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.body_limit import BodyLimit

LIMIT = 100
MESSAGE = "the request body is larger than 100 bytes, the most that is accepted"


class Counted:
    """Counts the requests that reach the application behind the limit."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.num_calls = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_calls += 1
        await self.app(scope, receive, send)


def build() -> Counted:
    app = FastAPI()

    @app.post("/json")
    def read_json(body: dict[str, Any]) -> dict[str, int]:
        return {"length": len(body["text"])}

    @app.post("/raw")
    async def read_raw(request: Request) -> dict[str, int]:
        return {"length": len(await request.body())}

    @app.post("/unread")
    def read_nothing() -> str:
        return "answered"

    @app.get("/get")
    def get() -> str:
        return "got"

    return Counted(app)


def request(
    app: Counted, path: str, content: bytes | Sequence[bytes] = b"", method: str = "POST"
) -> httpx2.Response:
    """Sends `content`, in chunks of undeclared length when it is a list of them."""

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in content:
            assert isinstance(chunk, bytes)
            yield chunk

    async def answer() -> httpx2.Response:
        transport = httpx2.ASGITransport(BodyLimit(app, LIMIT))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            sent = content if isinstance(content, bytes) else chunks()
            headers = {"content-type": "application/json"}
            return await client.request(method, path, content=sent, headers=headers)

    return asyncio.run(answer())


def json_of(num_bytes: int) -> bytes:
    content = b'{"text": "' + b"a" * (num_bytes - 12) + b'"}'
    assert len(content) == num_bytes
    return content


def assert_too_large(answer: httpx2.Response) -> None:
    assert answer.status_code == 413
    kind = "invalid_request_error"
    assert answer.json()["error"] == {"message": MESSAGE, "type": kind, "param": None, "code": None}


@pytest.mark.parametrize("num_bytes", [LIMIT + 1, 10**5])
def test_a_declared_body_that_is_too_large(num_bytes: int) -> None:
    app = build()
    assert_too_large(request(app, "/json", json_of(num_bytes)))
    assert app.num_calls == 0


def test_a_declared_body_is_refused_unread() -> None:
    """Most of it has not arrived, and never will."""
    app, sent = build(), []

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/json",
        "headers": [(b"content-length", b"1000000000")],
    }
    asyncio.run(BodyLimit(app, LIMIT)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 413
    assert app.num_calls == 0


@pytest.mark.parametrize("size", [1, 7, LIMIT])
def test_exactly_the_limit_passes(size: int) -> None:
    content = json_of(LIMIT)
    declared = request(build(), "/json", content)
    chunked = request(build(), "/json", [content[i : i + size] for i in range(0, LIMIT, size)])
    for answer in (declared, chunked):
        assert answer.status_code == 200
        assert answer.json() == {"length": LIMIT - 12}


def as_fastapi_says(answer: httpx2.Response) -> None:
    """Behind `BodyLimit` alone there is FastAPI's own body; `serve_app.api.application` makes it OpenAI's."""
    assert answer.status_code == 413
    assert answer.json() == {"detail": MESSAGE}


@pytest.mark.parametrize("path", ["/json", "/raw"])
@pytest.mark.parametrize("chunks", [[b" " * (LIMIT + 1)], [b" " * LIMIT, b"{"], [b"x"] * 1000])
def test_a_body_of_undeclared_length(path: str, chunks: list[bytes]) -> None:
    as_fastapi_says(request(build(), path, chunks))


def test_chunks_are_read_up_to_the_limit_only() -> None:
    app, num_read = build(), 0

    async def receive() -> Message:
        nonlocal num_read
        num_read += 1
        return {"type": "http.request", "body": b"x" * 40, "more_body": True}

    statuses = []

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/raw",
        "query_string": b"",
        "headers": [(b"transfer-encoding", b"chunked")],
    }
    asyncio.run(BodyLimit(app, LIMIT)(scope, receive, send))
    assert statuses[0] == 413
    assert num_read == 3


@pytest.mark.parametrize("length", [b"-1", b"", b"1e9", b"9" * 30, b"\xb2", b"9" * 5000])
def test_odd_declarations_are_no_way_around(length: bytes) -> None:
    """A server in front refuses most of these itself."""
    app, statuses = build(), []
    messages = iter([{"type": "http.request", "body": b"x" * (LIMIT + 1)}])

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        statuses.append(message.get("status"))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/raw",
        "query_string": b"",
        "headers": [(b"content-length", length)],
    }
    asyncio.run(BodyLimit(app, LIMIT)(scope, receive, send))
    assert statuses[0] == 413


def test_requests_without_a_body() -> None:
    app = build()
    assert request(app, "/get", method="GET").json() == "got"
    assert request(app, "/unread").json() == "answered"
    assert app.num_calls == 2


def test_what_is_not_http_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], await receive()))

    async def receive() -> Message:
        return {"type": "websocket.receive", "body": b"x" * 1000}

    async def send(message: Message) -> None:
        raise AssertionError("nothing is sent")

    scope = {"type": "websocket", "headers": [(b"content-length", b"1000")]}
    asyncio.run(BodyLimit(app, LIMIT)(scope, receive, send))
    assert seen == [("websocket", {"type": "websocket.receive", "body": b"x" * 1000})]
