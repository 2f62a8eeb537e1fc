"""A service whose answers cost nothing: `python -m serve_app.bench.canned [--port PORT]`.

Sends a chunk to each open stream in turn, each in a write of its own, as fast as they are taken, or a round
of chunks every `--period` seconds. Measures load generators, not engines. Prints its address when it listens.
GET /stats says how many chunks it sent since that was last asked, and the seconds between first and last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any, cast

import httptools
import uvloop

MODEL = "canned"
DEFAULT_TOKENS = 128
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(choices: list[dict[str, Any]], **fields: Any) -> bytes:
    """One event, as vLLM writes it, in one chunk of HTTP's encoding."""
    event = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_800_000_000,
        "model": MODEL,
        "choices": choices,
        **fields,
    }
    return _framed(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")


def _framed(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def _delta(**delta: str) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}]


_FIRST = _HEAD + _chunk(_delta(role="assistant", content=""), prompt_token_ids=None)
_CONTENT = _chunk(_delta(content=" river"))
_DONE = _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()


class Service:
    """All open streams, and the turn in which they get their chunks."""

    def __init__(self, period_s: float = 0.0) -> None:
        self._period_s = period_s
        self._streams: dict[Stream, int] = {}
        self._is_running = False
        self._loop = asyncio.get_running_loop()
        self._num_chunks = 0
        self._begin_s = self._end_s = 0.0

    def stats(self) -> dict[str, float]:
        """Returns what was sent, and forgets it."""
        found = {"chunks": self._num_chunks, "seconds": self._end_s - self._begin_s}
        self._num_chunks = 0
        return found

    def begin(self, stream: Stream, num_tokens: int) -> None:
        """Answer with so many chunks of content."""
        if not self._num_chunks:
            self._begin_s = time.monotonic()
        self._num_chunks += num_tokens
        self._streams[stream] = num_tokens
        if not self._is_running:
            self._is_running = True
            self._loop.call_soon(self._step)

    def end(self, stream: Stream) -> None:
        """The client is gone."""
        self._streams.pop(stream, None)

    def _step(self) -> None:
        for stream, left in list(self._streams.items()):
            if not stream.is_writable:
                continue
            if left:
                self._streams[stream] = left - 1
                stream.write(_CONTENT)
            else:
                del self._streams[stream]
                count = stream.num_tokens
                usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
                stream.write(_chunk([], usage=usage) + _DONE)
                self._end_s = time.monotonic()
        self._is_running = bool(self._streams)
        if self._is_running and self._period_s:
            self._loop.call_later(self._period_s, self._step)
        elif self._is_running:
            self._loop.call_soon(self._step)


class Stream(asyncio.Protocol):
    """A connection; any POST is answered with a stream, any GET with the list of models."""

    def __init__(self, service: Service) -> None:
        self.is_writable = True
        self.num_tokens = 0
        self._service = service
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self._service.end(self)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """It has caught up."""
        self.is_writable = True

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """A request begins."""
        self._url = url

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """A request is whole."""
        content, self._body = self._body, b""
        if self._parser.get_method() != b"POST":
            answer = json.dumps(self._service.stats()).encode() if self._url == b"/stats" else _MODELS
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % len(answer) + answer)
            return
        request = json.loads(content)
        self.num_tokens = int(
            request.get("max_tokens") or request.get("max_completion_tokens") or DEFAULT_TOKENS
        )
        self.write(_FIRST)
        self._service.begin(self, self.num_tokens)


async def serve(port: int, period_s: float) -> None:
    """Serves on loopback until it is cancelled; prints the address first."""
    loop = asyncio.get_running_loop()
    service = Service(period_s)
    server = await loop.create_server(lambda: Stream(service), "127.0.0.1", port, backlog=4096)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.bench.canned")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--period", type=float, default=0.0, help="seconds between a stream's chunks")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options.port, options.period))


if __name__ == "__main__":
    main()
