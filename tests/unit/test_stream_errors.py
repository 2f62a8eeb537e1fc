"""Over a real loopback server: an in-process transport would collect whole bodies."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.stream_errors import StreamErrors, opening_error

TIMEOUT_S = 20.0
EVENT_STREAM = "text/event-stream; charset=utf-8"
ERROR = {"error": {"message": "no engine", "type": "Service Unavailable", "param": None, "code": 503}}


class RefusedError(Exception):
    """As vLLM's errors say their status."""

    http_status = 503


def event(data: Any, name: str | None = None) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def streaming(*pieces: bytes | Exception, media_type: str = "text/event-stream") -> ASGIApp:
    """An application that streams `pieces`, raising where one is an exception."""

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def endpoint(_: Request) -> Response:
        return StreamingResponse(body(), headers={"x-request-id": "r-1"}, media_type=media_type)

    return application(endpoint)


def application(endpoint: Callable[..., Any]) -> ASGIApp:
    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"handled": str(error)}, 503)

    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(StreamErrors)],
        exception_handlers={RefusedError: refused},
    )


@contextmanager
def serving(app: ASGIApp) -> Iterator[httpx2.Client]:
    """`app` on a free port, and a client of it."""
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(app, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None)
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert started.wait(TIMEOUT_S)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx2.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def connected(client: httpx2.Client) -> socket.socket:
    """A connection of its own to the server that `client` talks to."""
    assert client.base_url.port
    return socket.create_connection((client.base_url.host, client.base_url.port), TIMEOUT_S)


# --- left alone ----------------------------------------------------------------------------------------


def test_an_ordinary_response() -> None:
    async def endpoint(_: Request) -> Response:
        return PlainTextResponse("hello", 201, headers={"x-request-id": "r-1"})

    with serving(application(endpoint)) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text) == (201, "hello")
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["content-length"] == "5"


def test_an_ordinary_response_that_looks_like_an_error_event() -> None:
    with serving(streaming(event(ERROR), b"more", media_type="text/plain")) as client:
        answer = client.get("/")
    assert answer.status_code == 200
    assert answer.content == event(ERROR) + b"more"


def test_an_ordinary_stream_that_breaks_stays_broken() -> None:
    with (
        serving(streaming(b"some", ValueError("broken"), media_type="text/plain")) as client,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        client.get("/")


def test_an_event_stream() -> None:
    pieces = [
        event({"error": None, "text": '"error"'}),
        event(ERROR),  # not the first: the status has gone out
        event({"text": "b"}) + event({"text": "c"}),
        event("[DONE]"),
    ]
    with serving(streaming(*pieces)) as client:
        answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == EVENT_STREAM
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.content == b"".join(pieces)


@pytest.mark.parametrize("pieces", [[], [b""]], ids=["no piece", "an empty piece"])
def test_an_event_stream_without_events(pieces: list[bytes]) -> None:
    with serving(streaming(*pieces)) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == EVENT_STREAM


def test_the_start_of_a_stream_without_a_body() -> None:
    """An application may end there, and a server then says that it did."""
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/event-stream")],
    }
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(StreamErrors(app)({"type": "http", "path": "/"}, receive, send))
    assert sent == [start]


def test_nothing_is_held_back() -> None:
    """Each piece arrives while the application still waits to be told to send the next one."""
    go_on = threading.Semaphore(0)
    pieces = [event({"n": n}) for n in range(3)]

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            assert await asyncio.to_thread(go_on.acquire, timeout=TIMEOUT_S)

    async def endpoint(_: Request) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    with serving(application(endpoint)) as client, client.stream("GET", "/") as answer:
        arriving = answer.iter_raw()
        for piece in pieces:
            assert next(arriving) == piece
            go_on.release()
        assert list(arriving) == []


# --- an error before the first piece -------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "error"])
def test_an_opening_error_becomes_the_response(name: str | None) -> None:
    with serving(streaming(event(ERROR, name), event("[DONE]"))) as client:
        answer = client.get("/")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == ERROR
        assert "x-request-id" not in answer.headers
        with connected(client) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            everything = b"".join(iter(lambda: connection.recv(65536), b""))
    # A client reads as much as the length says. Nothing follows it.
    assert everything.partition(b"\r\n\r\n")[2] == answer.content


def test_nothing_is_sent_after_an_opening_error() -> None:
    """A server would drop it, and log an error."""
    sent: list[Message] = []
    arrived = [{"type": "http.request", "body": b""}]

    async def receive() -> Message:
        if arrived:
            return arrived.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}

    async def answer() -> None:
        await streaming(event(ERROR), event({"more": 1}), event("[DONE]"))(scope, receive, send)

    asyncio.run(answer())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"]) == ERROR


def test_an_opening_error_and_what_follows_in_one_piece() -> None:
    with serving(streaming(event(ERROR) + event("[DONE]"))) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.json()) == (503, ERROR)


def test_an_exception_before_the_response() -> None:
    async def endpoint(_: Request) -> Response:
        raise ValueError("a secret")

    with serving(application(endpoint)) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def test_an_exception_before_the_first_piece() -> None:
    with serving(streaming(ValueError("a secret"))) as client:
        answer = client.get("/")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


# --- an error after the first piece --------------------------------------------------------------------


def ended(*pieces: bytes | Exception) -> dict[str, Any]:
    """The last event of a stream that an exception ended; checks that it came whole, after the others."""
    with serving(streaming(*pieces)) as client:
        answer = client.get("/")  # raises unless the chunked body has an end
    assert answer.status_code == 200
    sent = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    assert answer.content.startswith(sent)
    last = answer.content[len(sent) :]
    assert last.startswith(b"event: error\ndata: ")
    assert last.endswith(b"}\n\n")
    assert last.count(b"\n") == 3
    found: dict[str, Any] = json.loads(last.splitlines()[1][len(b"data: ") :])
    return found


def test_an_exception_in_the_stream() -> None:
    found = ended(event({"sequence_number": 0}), event({"sequence_number": 41}), ValueError("it broke"))
    assert found == {
        "type": "error",
        "code": "500",
        "message": "it broke",
        "param": None,
        "sequence_number": 42,
        "error": {"message": "it broke", "type": "Internal Server Error", "param": None, "code": 500},
    }


def test_an_exception_with_a_status() -> None:
    """Starlette cannot answer with it any more and raises another, caused by it."""
    found = ended(event({"sequence_number": 0}, "response.created"), RefusedError("engine lost"))
    assert found["code"] == "503"
    assert found["message"] == "engine lost"
    assert found["sequence_number"] == 1
    assert found["error"]["type"] == "Service Unavailable"


@pytest.mark.parametrize(
    ("pieces", "number"),
    [
        ([event({"sequence_number": 1}) + event({"sequence_number": 2})], 3),
        ([event({"sequence_number": 7}), b""], 8),
        ([event({"sequence_number": "7"})], 0),
        ([event({"text": "a"})], 0),
        ([event([1])], 0),
        ([event("[DONE]")], 0),
        ([b": a comment\n\n"], 0),
        ([b"\xff\xfe data: {\n\n"], 0),
    ],
)
def test_the_next_sequence_number(pieces: list[bytes], number: int) -> None:
    assert ended(*pieces, ValueError("it broke"))["sequence_number"] == number


def test_the_server_goes_on() -> None:
    with serving(streaming(event({"a": 1}), ValueError("it broke"))) as client:
        first, second = client.get("/"), client.get("/")
    assert first.content == second.content


# --- the client goes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [event({"n": 1})]], ids=["before a piece", "after a piece"])
def test_the_client_is_gone(pieces: list[bytes]) -> None:
    waits, left = threading.Event(), threading.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            for piece in pieces:
                yield piece
            waits.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.set()
            raise

    async def endpoint(_: Request) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    with serving(application(endpoint)) as client:
        with connected(client) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert waits.wait(TIMEOUT_S)
            assert not left.is_set()
        assert left.wait(TIMEOUT_S)


# --- which pieces are errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [400, 404, 429, 500, 503, 599])
def test_the_status_is_the_events_code(code: int) -> None:
    body = {"error": {"message": "m", "code": code}, "more": 1}
    assert opening_error(event(body)) == (body, code)


@pytest.mark.parametrize("code", [None, "503", 200, 399, 600, 503.0, True, [503]])
def test_without_a_status_it_is_500(code: Any) -> None:
    body = {"error": {"message": "m", "code": code}}
    assert opening_error(event(body)) == (body, 500)


def test_anthropics_error_event() -> None:
    body = {"type": "error", "error": {"type": "internal_error", "message": "m"}}
    assert opening_error(event(body, "error")) == (body, 500)


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        b"\n\n",
        event("[DONE]"),
        event({"text": '"error"'}),
        event({"error": None}),
        event({"error": "text"}),
        event({"response": {"error": {"code": 500}}}),
        event([{"error": {"code": 500}}]),
        b'data: {"error": {"code": 500}\n\n',
        b'{"error": {"code": 500}}\n\n',
        b'event: error\n: "error"\n\n',
        event({"text": "a"}) + event(ERROR),
        b'data: "error" \xff\n\n',
    ],
)
def test_what_is_no_opening_error(chunk: bytes) -> None:
    assert opening_error(chunk) is None
