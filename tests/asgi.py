"""A test as the server of an ASGI application, in one event loop.

`request` is for whole answers, which httpx2's transport gives when they are complete. An `Exchange` shows
what comes before: the pieces of a stream, a client that does not read or leaves, a body that stays away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from starlette.types import ASGIApp, Message

JSON = {"content-type": "application/json"}


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application. What it raises is an answer of status 500, as behind a server."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def request(app: ASGIApp, method: str, path: str, **options: Any) -> httpx2.Response:
    """The answer to one request; the options are those of httpx2."""
    async with client_of(app) as client:
        return await client.request(method, path, **options)


def scope_of(path: str, headers: Mapping[str, str] = JSON, method: str = "POST") -> dict[str, Any]:
    """What a server says of a request before its body."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
    }


def body_of(*chunks: bytes, is_whole: bool = True) -> list[Message]:
    """The messages that bring a body; one that is not whole lacks its end."""
    last = len(chunks) - 1
    return [
        {"type": "http.request", "body": chunk, "more_body": not is_whole or index < last}
        for index, chunk in enumerate(chunks)
    ]


class Exchange:
    """One request, in a task that runs from the start.

    Its client stays until `leave`, and reads the answer while `reads` is set.
    """

    def __init__(self, app: ASGIApp, scope: dict[str, Any], messages: Iterable[Message]) -> None:
        self.sent: list[Message] = []
        self.num_received = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self._left, self._has_sent = asyncio.Event(), asyncio.Event()
        self._messages = iter(messages)
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        """Of the answer, which has begun."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def text(self) -> str:
        """What has been sent of the answer's body."""
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds; it is looked at after each message that is sent."""
        while not condition():
            self._has_sent.clear()
            await self._has_sent.wait()

    def leave(self) -> None:
        """The client goes, once its body has been read."""
        self._left.set()

    async def end(self) -> None:
        """Until the application has returned; raises what it raises."""
        await self.task

    async def _receive(self) -> Message:
        for message in self._messages:
            self.num_received += 1
            return message
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(dict(message))
        self._has_sent.set()
        if message["type"] == "http.response.body":
            await self.reads.wait()
