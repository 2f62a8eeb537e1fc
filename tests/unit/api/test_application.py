"""The application without the routes that generate."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread
import httpx2
import pytest
from fastapi import FastAPI, HTTPException

from serve_app.api.application import new_app
from serve_app.errors import OverloadedError

MAX_BODY_BYTES = 1000


async def request(app: FastAPI, method: str, path: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path)


def test_health_needs_no_worker_thread() -> None:
    """All may be busy, with something that waits for an engine."""

    async def work() -> None:
        limiter = anyio.to_thread.current_default_thread_limiter()
        for _ in range(int(limiter.total_tokens)):
            limiter.acquire_on_behalf_of_nowait(object())
        answer = await request(new_app(MAX_BODY_BYTES, lambda: 2), "GET", "/health")
        assert answer.json() == {"status": "ready", "ready_engines": 2}

    asyncio.run(asyncio.wait_for(work(), 10))


@pytest.mark.parametrize("path", ["/elsewhere", "/v1/messages/elsewhere"])
@pytest.mark.parametrize(
    ("error", "status", "kinds"),
    [
        (HTTPException(418, "short and stout"), 418, {"invalid_request_error", "api_error"}),
        (OverloadedError("the queue is full"), 429, {"rate_limit_error"}),
    ],
)
def test_errors_of_any_route_have_the_apis_form(
    path: str, error: Exception, status: int, kinds: set[str]
) -> None:
    app = new_app(MAX_BODY_BYTES, lambda: 1)

    async def fail() -> None:
        raise error

    app.get(path)(fail)
    answer = asyncio.run(request(app, "GET", path))
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status
    assert body["error"]["message"] in ("short and stout", "the queue is full")
    assert body["error"]["type"] in kinds
    assert ("type" in body) == path.startswith("/v1/messages")
