"""The application without the routes that generate."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import pytest
from fastapi import HTTPException
from starlette.types import Receive, Scope, Send

from serve_app.api.application import new_app
from serve_app.errors import UNFORESEEN, OverloadedError
from tests.asgi import request

MAX_BODY_BYTES = 1000


async def test_health_needs_no_worker_thread() -> None:
    """All may be busy, with something that waits for an engine."""

    limiter = anyio.to_thread.current_default_thread_limiter()
    for _ in range(int(limiter.total_tokens)):
        limiter.acquire_on_behalf_of_nowait(object())
    answer = await request(new_app(MAX_BODY_BYTES, lambda: 2), "GET", "/health")
    assert answer.json() == {"status": "ready", "ready_engines": 2}


@pytest.mark.parametrize("prefix", ["", "/v2", "/v1/messages"])
@pytest.mark.parametrize("path", ["/elsewhere", "/v1/messages/elsewhere"])
@pytest.mark.parametrize(
    ("error", "status", "kinds"),
    [
        (HTTPException(418, "short and stout"), 418, {"invalid_request_error", "api_error"}),
        (OverloadedError("the queue is full", retry_after_s=1.5), 429, {"rate_limit_error"}),
        (RuntimeError("/home/me is full"), 500, {"server_error", "api_error"}),
    ],
)
async def test_errors_of_any_route_have_the_apis_form(
    prefix: str, path: str, error: Exception, status: int, kinds: set[str]
) -> None:
    """Whatever Serve's `route_prefix` is."""
    app = new_app(MAX_BODY_BYTES, lambda: 1)

    async def fail() -> None:
        raise error

    app.get(path)(fail)

    async def below_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        # As Serve gives it.
        await app({**scope, "root_path": prefix}, receive, send)

    answer = await request(below_prefix, "GET", prefix + path)
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status
    message = UNFORESEEN if status == 500 else str(error)
    assert body["error"]["message"] == (error.detail if isinstance(error, HTTPException) else message)
    is_anthropic = path.startswith("/v1/messages")
    assert answer.headers["request-id" if is_anthropic else "x-request-id"].startswith("req_")
    assert body.get("request_id") == (answer.headers["request-id"] if is_anthropic else None)
    assert answer.headers.get("retry-after") == ("2" if status == 429 else None)
    assert body["error"]["type"] in kinds
    assert ("type" in body) == is_anthropic
