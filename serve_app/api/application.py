"""The HTTP application around vLLM's routes: limits, rules, error bodies, health."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.admission.client import GateClient
from serve_app.admission.http import Visits, admit
from serve_app.body_limit import BodyLimit
from serve_app.errors import ServiceError, error_body
from serve_app.request_rules import check_body
from serve_app.stream_errors import StreamErrors


def new_app(
    max_body_bytes: int,
    max_model_len: int,
    num_ready_engines: Callable[[], int],
    gate: GateClient | None = None,
) -> FastAPI:
    """Returns an application with `/health` and no other route yet.

    Routes that are included later get the rules, and ask `gate` (None admits all) if they generate.
    `num_ready_engines` raises a `ServiceError` for none.
    """
    app = FastAPI(title="gpt-oss", dependencies=[Depends(_rules(max_model_len, gate))])
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(StreamErrors)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(Visits)
    app.add_middleware(AnthropicErrors)  # the last one added is the first: it sees every answer

    # Coroutines, so that they are answered when all worker threads are busy.
    @app.get("/health/ready")
    @app.get("/health")
    async def health() -> dict[str, object]:
        """200 when at least one engine replica is ready to generate, 503 with the reason otherwise."""
        return {"status": "ready", "ready_engines": num_ready_engines()}

    @app.get("/health/live")
    async def live() -> dict[str, object]:
        """200 as long as this ingress answers at all."""
        return {"status": "live"}

    return app


def _rules(max_model_len: int, gate: GateClient | None) -> Callable[[Request], Awaitable[None]]:
    async def check_request(request: Request) -> None:
        if request.method != "POST":
            return
        # FastAPI has read and parsed the body by now and kept both, if the route takes JSON and this is some.
        raw = await request.body()
        try:
            body = await request.json()
        except (ValueError, RecursionError):
            return  # empty, or not JSON: the route says what is wrong with that
        check_body(body, raw, max_model_len)
        if gate:
            await admit(gate, request, body)

    return check_request


async def _service_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return JSONResponse(error_body(str(error), error.status, getattr(error, "param", None)), error.status)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return JSONResponse(error_body(error.detail, status), status, headers=error.headers)


class AnthropicErrors:
    """ASGI middleware: errors of `/v1/messages` get the `"type": "error"` that Anthropic's clients look for.

    These come from handlers that serve all routes: the ones above, the body limit, vLLM's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/messages"):
            await self.app(scope, receive, send)
            return
        start: Message | None = None

        async def marked_send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message  # its content-length depends on the body
                return
            if start is not None:
                held, start = start, None
                if not message.get("more_body"):
                    message["body"] = _with_type(message.get("body", b""))
                    MutableHeaders(scope=held)["content-length"] = str(len(message["body"]))
                await send(held)
            await send(message)

        await self.app(scope, receive, marked_send)
        if start is not None:
            await send(start)


def _with_type(content: bytes) -> bytes:
    """`content`, with the mark if it is an OpenAI error body."""
    try:
        body = json.loads(content)
    except ValueError:
        return content
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict) or "type" in body:
        return content
    return json.dumps({"type": "error"} | body).encode()
