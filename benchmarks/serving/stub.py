"""The timed engine without step frames: its outputs as a stream in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from serve_app.config import AppConfig
from serve_app.timed.answers import Output
from serve_app.timed.engine import TimedEngine
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest


class Stream:
    """In place of a `FrameLink`: a request's outputs, each with its position."""

    def __init__(self) -> None:
        self.outputs: asyncio.Queue[tuple[int, Output] | None] = asyncio.Queue()

    def add(self, _call: int, position: int, output: Output, _num_tokens: int) -> None:
        """Takes an output."""
        self.outputs.put_nowait((position, output))


class Streams:
    """In place of a `FrameSender`: the streams of an engine, by request id."""

    def __init__(self) -> None:
        self.by_request: dict[str, Stream] = {}

    @asynccontextmanager
    async def link(self, address: CurveAddress) -> AsyncIterator[Stream]:
        """The stream of the request that the address names."""
        yield self.by_request[address.endpoint]

    def flush(self) -> None:
        """Everything has arrived already."""

    def close(self) -> None:
        """Nothing is open."""


class StreamingEngine(TimedEngine):
    """A `TimedEngine` whose `stream` yields what `generate` would send."""

    async def __init__(self, config: AppConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        await super().__init__(config)
        self._sender.close()
        self._streams = Streams()
        self._sender: Any = self._streams

    async def stream(self, request: GenerateRequest) -> AsyncIterator[tuple[int, Output]]:
        """Yields the outputs of one request with their positions, one a step."""
        name = request.request_id
        stream = self._streams.by_request[name] = Stream()
        local = msgspec.structs.replace(request, reply_to=CurveAddress(name, b""))
        task = asyncio.create_task(self.generate(local))
        task.add_done_callback(lambda _: stream.outputs.put_nowait(None))
        try:
            while item := await stream.outputs.get():
                yield item
            await task
        finally:
            task.cancel()
            del self._streams.by_request[name]


def config(
    *, max_concurrent_requests: int, tokens_per_step: float, steps_per_second: float, record: str | None
) -> AppConfig:
    """The config of a streaming engine where only the engine matters."""
    timed = {
        "tokens_per_step": tokens_per_step,
        "steps_per_second": steps_per_second,
        "record": record,
    }
    return AppConfig.model_validate(
        {
            "engine": {
                "max_concurrent_requests": max_concurrent_requests,
                "num_gpus": 0,
                "max_model_len": 131072,
                "timed": timed,
            }
        }
    )
