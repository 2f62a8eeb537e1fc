"""The HTTP application of an ingress: health, limits, error bodies, CORS. `routes` adds what generates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serve_app.api.body_limit import BodyLimit
from serve_app.api.error_forms import (
    ANTHROPIC_ID,
    OPENAI_ID,
    error_response,
    new_request_id,
    route_path,
)
from serve_app.errors import UNFORESEEN, ServiceError, may_be_quoted

logger = logging.getLogger("ray.serve")

GET = ["GET", "HEAD"]
# What a page may read of an answer besides its body.
EXPOSED_HEADERS = (
    *(OPENAI_ID, ANTHROPIC_ID, "retry-after", "x-warning"),
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
)
PREFLIGHT_MAX_AGE_S = 3600


def new_app(
    max_body_bytes: int, num_ready_engines: Callable[[], int], allowed_origins: Sequence[str] = ()
) -> FastAPI:
    """Returns an application with `/health` and no other route yet.

    `num_ready_engines` raises a `ServiceError` for none. Pages of `allowed_origins` may use it from a
    browser, without credentials.
    """
    # The documents' routes are `routes`' own: FastAPI's pages load scripts from elsewhere.
    app = FastAPI(title="gpt-oss", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen_error)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    if allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(allowed_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            allow_credentials=False,
            max_age=PREFLIGHT_MAX_AGE_S,
        )

    # Coroutines, so that they are answered when all worker threads are busy.
    async def health() -> dict[str, object]:
        """200 when an engine replica is ready, or one is started for a request; else 503 with the reason."""
        return {"status": "ready", "ready_engines": num_ready_engines()}

    async def live() -> dict[str, object]:
        """200 as long as this ingress answers at all."""
        return {"status": "live"}

    app.add_api_route("/health", health, methods=GET)
    app.add_api_route("/health/ready", health, methods=GET)
    app.add_api_route("/health/live", live, methods=GET)
    return app


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return error_response(route_path(request.scope), error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    ours = ServiceError(error.detail if may_be_quoted(error.detail) else status.phrase)
    ours.status = status
    return error_response(route_path(request.scope), ours, error.headers)


async def _unforeseen_error(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises it once more, and Serve logs it without an id.
    request_id = new_request_id()
    logger.error("request %s on %s failed", request_id, request.url.path, exc_info=error)
    return error_response(route_path(request.scope), ServiceError(UNFORESEEN), request_id=request_id)
