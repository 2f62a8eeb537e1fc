from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from starlette.types import Receive, Scope, Send

from serve_app.api.body_limit import BodyLimit
from tests import asgi

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


async def post(
    app: Counted, path: str, content: bytes | Sequence[bytes] = b"", method: str = "POST"
) -> httpx2.Response:
    """Sends `content`, in chunks of undeclared length when it is a list of them."""

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in content:
            assert isinstance(chunk, bytes)
            yield chunk

    sent = content if isinstance(content, bytes) else chunks()
    return await asgi.request(BodyLimit(app, LIMIT), method, path, content=sent, headers=asgi.JSON)


def exchange_of(app: Counted, headers: dict[str, str], *chunks: bytes) -> asgi.Exchange:
    """What a server that checks nothing would let through."""
    return asgi.Exchange(BodyLimit(app, LIMIT), asgi.scope_of("/raw", headers), asgi.body_of(*chunks))


def json_of(num_bytes: int) -> bytes:
    content = b'{"text": "' + b"a" * (num_bytes - 12) + b'"}'
    assert len(content) == num_bytes
    return content


def assert_too_large(answer: httpx2.Response) -> None:
    assert answer.status_code == 413
    kind = "invalid_request_error"
    assert answer.json()["error"] == {"message": MESSAGE, "type": kind, "param": None, "code": None}


@pytest.mark.parametrize("num_bytes", [LIMIT + 1, 10**5])
async def test_a_declared_body_that_is_too_large(num_bytes: int) -> None:
    app = build()
    assert_too_large(await post(app, "/json", json_of(num_bytes)))
    assert app.num_calls == 0


async def test_a_declared_body_is_refused_unread() -> None:
    """Most of it has not arrived, and never will."""
    app = build()
    exchange = exchange_of(app, {"content-length": "1000000000"}, b"x")
    await exchange.end()
    assert exchange.num_received == 0
    assert [message["type"] for message in exchange.sent] == ["http.response.start", "http.response.body"]
    assert exchange.status == 413
    assert app.num_calls == 0


@pytest.mark.parametrize("size", [1, 7, LIMIT])
async def test_exactly_the_limit_passes(size: int) -> None:
    content = json_of(LIMIT)
    declared = await post(build(), "/json", content)
    chunked = await post(build(), "/json", [content[i : i + size] for i in range(0, LIMIT, size)])
    for answer in (declared, chunked):
        assert answer.status_code == 200
        assert answer.json() == {"length": LIMIT - 12}


def as_fastapi_says(answer: httpx2.Response) -> None:
    """Behind `BodyLimit` alone there is FastAPI's own body; `serve_app.api.application` makes it OpenAI's."""
    assert answer.status_code == 413
    assert answer.json() == {"detail": MESSAGE}


@pytest.mark.parametrize("path", ["/json", "/raw"])
@pytest.mark.parametrize("chunks", [[b" " * (LIMIT + 1)], [b" " * LIMIT, b"{"], [b"x"] * 1000])
async def test_a_body_of_undeclared_length(path: str, chunks: list[bytes]) -> None:
    as_fastapi_says(await post(build(), path, chunks))


async def test_chunks_are_read_up_to_the_limit_only() -> None:
    exchange = exchange_of(build(), {"transfer-encoding": "chunked"}, *[b"x" * 40] * 100)
    await exchange.end()
    assert exchange.status == 413
    assert exchange.num_received == 3


@pytest.mark.parametrize("length", ["-1", "", "1e9", "9" * 30, "\xb2", "9" * 5000])
async def test_odd_declarations_are_no_way_around(length: str) -> None:
    """A server in front refuses most of these itself."""
    exchange = exchange_of(build(), {"content-length": length}, b"x" * (LIMIT + 1))
    await exchange.end()
    assert exchange.status == 413


async def test_requests_without_a_body() -> None:
    app = build()
    assert (await post(app, "/get", method="GET")).json() == "got"
    assert (await post(app, "/unread")).json() == "answered"
    assert app.num_calls == 2


async def test_what_is_not_http_passes() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], await receive()))

    message = {"type": "websocket.receive", "body": b"x" * 1000}
    scope = {"type": "websocket", "headers": [(b"content-length", b"1000")]}
    exchange = asgi.Exchange(BodyLimit(app, LIMIT), scope, [message])
    await exchange.end()
    assert seen == [("websocket", message)]
    assert exchange.sent == []
