"""Clients of a drill, against servers that do not answer as they should."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.chaos.questions import CHAT, Question, plain
from benchmarks.chaos.traffic import Clients
from benchmarks.chaos.verdicts import Attempt, End

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"choices": []}\n\n'
COMMENT = b": keep-alive\n\n"
SILENCE_S = 0.3


@asynccontextmanager
async def server(chunks: Callable[[], AsyncIterator[bytes]]) -> AsyncIterator[str]:
    """Answers each request with these chunks; returns the address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        sending = asyncio.create_task(send(writer))
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client has left
        sending.cancel()
        writer.close()
        gone.set()

    async def send(writer: asyncio.StreamWriter) -> None:
        async for chunk in chunks():
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))

    gone = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as found:
        address, port = found.sockets[0].getsockname()
        yield f"http://{address}:{port}"
        await gone.wait()


async def ask(url: str, *, streamed: bool) -> Attempt:
    clients = Clients(url, [], 1, {}, leaving=0, pausing=0, silence_s=SILENCE_S)
    question = Question("1 chat", CHAT, plain(CHAT, "Hi", 5, streamed=streamed))
    async with asyncio.timeout(60):
        return await clients.ask(question, "", random.Random(1))


async def comments() -> AsyncIterator[bytes]:
    """A token, and then nothing but signs of life."""
    yield TOKEN
    while True:
        yield COMMENT
        await asyncio.sleep(SILENCE_S / 10)


async def nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.mark.parametrize(("chunks", "streamed"), [(comments, True), (nothing, True), (nothing, False)])
async def test_who_hears_nothing_of_an_answer_has_been_forgotten(
    chunks: Callable[[], AsyncIterator[bytes]], streamed: bool
) -> None:
    async with server(chunks) as url:
        assert (await ask(url, streamed=streamed)).end is End.SILENT
