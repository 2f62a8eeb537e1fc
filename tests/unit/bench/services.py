"""A small service on a real socket that answers as a test says."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
# Long enough for the client to read what came before on its own, most of the time; nothing depends on it.
PAUSE_S = 0.002
# For what comes at once, unless the machine is busy.
PATIENCE_S = 300


class Act(Enum):
    """What else than bytes an answer can consist of."""

    RESET = "reset"
    CLOSE = "close"
    HANG = "hang"  # until the client leaves
    PAUSE = "pause"


@dataclass(frozen=True)
class Request:
    """A request that was received, and when."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    received_ns: int


Answer = Callable[[Request], Iterable[bytes | Act]]


@dataclass
class Service:
    """The address, and all requests so far."""

    url: str
    requests: list[Request]


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event(id="chatcmpl-x", choices=[{"index": 0, "delta": fields}])


def usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event(id="chatcmpl-x", choices=[], usage=counts)


DONE = b"data: [DONE]\n\n"
STREAM = [
    delta(role="assistant", content=""),
    delta(reasoning="hm"),
    delta(content="four"),
    delta(content=" é"),
    usage(7, 5),
    DONE,
]


def chunked(*events: bytes) -> list[bytes]:
    """Each event as a chunk of HTTP's encoding, without the end."""
    return [b"%x\r\n%b\r\n" % (len(one), one) for one in events]


def whole(*events: bytes) -> list[bytes]:
    """A complete streamed answer."""
    return [HEAD, *chunked(*events), END]


def document(status: int, body: Any) -> list[bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Status\r\ncontent-length: {len(content)}\r\n\r\n"
    return [head.encode() + content]


@contextmanager
def serving(answer: Answer) -> Iterator[Service]:
    """Yields a service that runs in a thread until the end of the block."""
    loop = asyncio.new_event_loop()
    service = Service("", [])
    ready = threading.Event()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _request(reader):
                service.requests.append(request)
                for part in answer(request):
                    if not await _perform(part, reader, writer):
                        return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
        service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        async with server:
            await stopped.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.wait([task])

    stopped = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(PATIENCE_S)
        loop.close()


async def _request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    received_ns = time.monotonic_ns()
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(head[0].split()[1], headers, json.loads(body or b"{}"), received_ns)


async def _perform(part: bytes | Act, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Does one part of an answer; False when the connection is over."""
    match part:
        case bytes():
            writer.write(part)
            await writer.drain()
        case Act.PAUSE:
            await asyncio.sleep(PAUSE_S)
        case Act.HANG:
            await reader.read()
            return False
        case Act.CLOSE:
            return False
        case Act.RESET:
            # Closing with this option sends a reset instead of an end.
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
    return True
