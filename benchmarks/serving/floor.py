"""The floor: a bare uvicorn that writes ready-made chunks at the timed engine's steps.

Every request of a step is written by itself, as an answer of one token a chunk must be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from benchmarks.serving import chunks, stub


class Floor:
    """The application. Its engine is made with the first request, inside the event loop."""

    def __init__(self, tokens_per_step: float, steps_per_second: float, record: str) -> None:
        self._config = stub.config(
            max_concurrent_requests=1024,
            tokens_per_step=tokens_per_step,
            steps_per_second=steps_per_second,
            record=record,
        )
        self._engine: Any = None
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/health", self.health),
            ]
        )

    async def health(self, _request: Request) -> JSONResponse:
        """Always well."""
        return JSONResponse({})

    async def chat(self, request: Request) -> StreamingResponse:
        """A stream of chunks."""
        if self._engine is None:
            self._engine = stub.StreamingEngine.__new__(stub.StreamingEngine)
            await self._engine.__init__(self._config)
        body = json.loads(await request.body())
        name = request.headers["x-request-id"]
        return StreamingResponse(self._chunks(name, body), media_type="text/event-stream")

    async def _chunks(self, name: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
        async for chunk in chunks.chat_chunks(self._engine, name, body["max_tokens"]):
            yield chunk.encode()


def main() -> None:
    """Command line: PORT TOKENS_PER_STEP STEPS_PER_SECOND RECORD."""
    port, tokens_per_step, steps_per_second, record = sys.argv[1:]
    floor = Floor(float(tokens_per_step), float(steps_per_second), record)
    uvicorn.run(floor.app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
