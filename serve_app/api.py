"""The HTTP application around vLLM's routes: limits, rules, error bodies, health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve_app.body_limit import BodyLimit
from serve_app.errors import ServiceError, error_body
from serve_app.request_rules import check_body
from serve_app.stream_errors import StreamErrors


def new_app(max_body_bytes: int, max_model_len: int, num_ready_engines: Callable[[], int]) -> FastAPI:
    """Returns an application with `/health` and no other route yet.

    Routes that are included later get the rules. `num_ready_engines` raises a `ServiceError` for none.
    """
    app = FastAPI(title="gpt-oss", dependencies=[Depends(_rules(max_model_len))])
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(StreamErrors)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)

    @app.get("/health")
    def health() -> dict[str, object]:
        """200 when at least one engine replica is ready to generate, 503 with the reason otherwise."""
        return {"status": "ready", "ready_engines": num_ready_engines()}

    return app


def _rules(max_model_len: int) -> Callable[[Request], Awaitable[None]]:
    async def check_request(request: Request) -> None:
        if request.method == "POST":
            # FastAPI has read and parsed the body by now; these return what it kept.
            check_body(await request.json(), await request.body(), max_model_len)

    return check_request


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return _error_response(request, str(error), error.status, getattr(error, "param", None))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error_response(request, error.detail, HTTPStatus(error.status_code), None)


def _error_response(request: Request, message: str, status: HTTPStatus, param: str | None) -> JSONResponse:
    body = error_body(message, status, param)
    if request.url.path.startswith("/v1/messages"):
        body["type"] = "error"  # Anthropic's clients look for it
    return JSONResponse(body, status)
