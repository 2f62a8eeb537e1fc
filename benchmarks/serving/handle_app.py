"""The service with tokens through Serve's streaming handle in place of step frames; all else is the same."""

# No `from __future__ import annotations`: Serve reads the annotation of `build`'s argument as a class.
import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from ray.serve import Application, Deployment

import serve_app.ingress
from benchmarks.serving.stub import StreamingEngine
from serve_app.admission.slot_grants import SlotGrant
from serve_app.config import AppConfig
from serve_app.deployment_options import engine_options, gate_options, ingress_options
from serve_app.engine_calls import EngineCall
from serve_app.gate import Gate
from serve_app.ingress import Ingress
from serve_app.timed.answers import encode
from serve_app.transport.curve import CurveAddress
from serve_app.transport.frames import FrameHeader, Parts
from serve_app.transport.requests import GenerateRequest


class HandleEngine(StreamingEngine):
    """Yields each output as the bytes that a frame with it alone would have."""

    async def generate_stream(self, request: GenerateRequest) -> AsyncIterator[tuple[int, int, bytes]]:
        """Yields the position, the number of tokens and the encoded output of each step."""
        async for position, output in self.stream(request):
            yield position, len(output.new_token_ids), encode([output])[0]


class Arrivals:
    """In place of a `FrameReceiver`: what the streams of this process have brought."""

    def __init__(self) -> None:
        self.address = CurveAddress("", b"")
        self._frames: list[tuple[FrameHeader, Parts]] = []
        self._is_there = asyncio.Event()

    def put(self, sequence: int, position: int, part: bytes) -> None:
        """Takes one output."""
        self._frames.append((FrameHeader([sequence], [position]), [part]))
        self._is_there.set()

    async def receive(self) -> list[tuple[FrameHeader, Parts]]:
        """Returns everything that is there, at least one frame."""
        await self._is_there.wait()
        self._is_there.clear()
        frames, self._frames = self._frames, []
        return frames

    def close(self) -> None:
        """Nothing is open."""


class StreamCalls:
    """In place of `EngineCalls`: reads one stream for each sequence."""

    def __init__(self, stream: Any, arrivals: Arrivals) -> None:
        self._stream, self._arrivals = stream, arrivals

    async def run(self, request: GenerateRequest, grant: SlotGrant) -> int:
        """Returns the number of tokens, when the stream has ended."""
        num_tokens = 0
        responses = self._stream.remote(EngineCall(request, grant))
        try:
            await grant.granted()
            async for position, num_new, part in responses:
                self._arrivals.put(request.sequence, position, part)
                num_tokens += num_new
            return num_tokens
        finally:
            responses.cancel()


class HandleIngress(Ingress):
    """An ingress that reads one stream for each request."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AppConfig, engine: Any, gate: Any
    ) -> None:
        arrivals = Arrivals()
        stream = engine.options(stream=True).generate_stream
        vars(serve_app.ingress)["FrameReceiver"] = lambda _host: arrivals
        vars(serve_app.ingress)["EngineCalls"] = lambda *_: StreamCalls(stream, arrivals)
        await super().__init__(config, engine, gate)


def build(args: AppConfig) -> Application:
    """As `serve_app.app:build`."""
    engine: Deployment = serve.deployment(**engine_options(args))(HandleEngine)
    gate: Deployment = serve.deployment(**gate_options(args))(Gate)
    ingress: Deployment = serve.deployment(**ingress_options(args))(serve.ingress()(HandleIngress))
    engines = engine.bind(args)
    return ingress.bind(args, engines, gate.bind(args, engines))
