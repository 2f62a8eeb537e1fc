"""A client that sends hostile requests, each on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httptools

from benchmarks.chaos.exchange import Received, message_of
from benchmarks.chaos.hostile.request import Conduct, Hostile

# Longer than anything may take on a busy machine; what is not bounded takes minutes, and some of it for ever.
TIMEOUT_S = 120.0
UNREAD_BYTES, UNREAD_S = 4096, 2.0
SLOW_PIECES, SLOW_S = 16, 3.0
LEAVES_AFTER_S = 0.5
# Of a head; the last piece of a body that is left unsent.
KEY = "hostile"
MAX_ERROR_BYTES = 2048


@dataclass(frozen=True)
class Reply:
    """What came back. No status: the client has left, or the connection was closed."""

    status: int | None
    content: bytes
    took_s: float
    is_complete: bool

    @property
    def is_well_said(self) -> bool:
        """Whether an error is a short body as the APIs have it, and an answer is whole."""
        if self.status is None or not self.is_complete:
            return False
        return self.status == 200 or (
            len(self.content) < MAX_ERROR_BYTES and message_of(self.content) is not None
        )


def head(hostile: Hostile, key: str = KEY) -> bytes:
    """Returns the request's head."""
    length = (
        "Transfer-Encoding: chunked"
        if hostile.conduct is Conduct.CHUNKED
        else f"Content-Length: {len(hostile.body)}"
    )
    lines = [
        f"POST {hostile.path} HTTP/1.1",
        "Host: service",
        "Content-Type: application/json",
        "anthropic-version: 2023-06-01",
        "Connection: close",
        length,
    ]
    if not any(name == "authorization" for name, _ in hostile.headers):
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in hostile.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def pieces(hostile: Hostile, drawn: random.Random) -> Iterator[bytes]:
    """Yields what is sent of the body, piece by piece."""
    body = hostile.body
    if hostile.conduct is Conduct.CHUNKED:
        for start in range(0, len(body), 1 << 18):
            piece = body[start : start + (1 << 18)]
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"
    elif hostile.conduct is Conduct.SLOW:
        size = -(-len(body) // SLOW_PIECES)
        yield from (body[start : start + size] for start in range(0, len(body), size))
    elif hostile.conduct is Conduct.LEAVES_SENDING:
        yield body[: drawn.randrange(len(body))]
    else:
        yield body


async def send(address: tuple[str, int], hostile: Hostile, drawn: random.Random) -> Reply:
    """Sends a request, and behaves as it says. Raises `TimeoutError` for an answer that does not come."""
    began, received = time.monotonic(), Received()
    with socket.socket() as raw:
        raw.setblocking(False)
        if hostile.conduct is Conduct.UNREAD:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
        await asyncio.get_running_loop().sock_connect(raw, address)
        reader, writer = await asyncio.open_connection(sock=raw, limit=UNREAD_BYTES)
        # A service may refuse a body before it is sent.
        sending = asyncio.create_task(_send(writer, hostile, drawn))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await _behave(reader, hostile, drawn, received, sending)
        except (ConnectionError, httptools.HttpParserError):
            received.is_complete = False
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending
            writer.transport.abort()
    return Reply(received.status, b"".join(received.content), time.monotonic() - began, received.is_complete)


async def _send(writer: asyncio.StreamWriter, hostile: Hostile, drawn: random.Random) -> None:
    writer.write(head(hostile))
    for number, piece in enumerate(pieces(hostile, drawn)):
        if number and hostile.conduct is Conduct.SLOW:
            await asyncio.sleep(SLOW_S / SLOW_PIECES)
        writer.write(piece)
        await writer.drain()


async def _behave(
    reader: asyncio.StreamReader,
    hostile: Hostile,
    drawn: random.Random,
    received: Received,
    sending: asyncio.Task[None],
) -> None:
    match hostile.conduct:
        case Conduct.LEAVES_SENDING:
            await sending
        case Conduct.LEAVES_WAITING:
            await sending
            await asyncio.sleep(drawn.uniform(0, LEAVES_AFTER_S))
        case Conduct.LEAVES_READING:
            await sending
            # One that is not streamed says nothing until it is there.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * LEAVES_AFTER_S):
                    await reader.read(1 << 16)
                    await asyncio.sleep(drawn.uniform(0, LEAVES_AFTER_S))
        case Conduct.UNREAD:
            await sending
            await asyncio.sleep(UNREAD_S)
        case _:
            await _read(reader, received)


async def _read(reader: asyncio.StreamReader, received: Received) -> None:
    parser = httptools.HttpResponseParser(received)
    while not received.is_complete and (data := await reader.read(1 << 16)):
        parser.feed_data(data)
        received.status = parser.get_status_code()
