"""How an error is said: in OpenAI's form, or in Anthropic's to the clients of its API."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from starlette.responses import JSONResponse
from starlette.types import Scope

from serve_app.admission.http import retry_after
from serve_app.api.messages import errors as messages_errors
from serve_app.errors import ServiceError, body_of

ANTHROPIC_PATH = "/v1/messages"
# The response's header with the id of the request.
OPENAI_ID, ANTHROPIC_ID = "x-request-id", "request-id"


class ErrorForm(Protocol):
    """Makes the body of an error response."""

    def __call__(self, error: ServiceError, request_id: str) -> dict[str, Any]:
        """Returns the body. `request_id` is the one in the response's header."""


def openai_form(error: ServiceError, request_id: str) -> dict[str, Any]:
    """OpenAI's, which holds no id."""
    return body_of(error)


def anthropic_form(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Anthropic's."""
    return messages_errors.error_body(error, request_id)


def new_request_id() -> str:
    """Returns an id for a request that came without one."""
    return f"req_{uuid.uuid4().hex}"


def route_path(scope: Scope) -> str:
    """Returns the path of a request below Serve's `route_prefix`: that of a route."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def error_response(
    path: str, error: ServiceError, headers: Mapping[str, str] | None = None, request_id: str | None = None
) -> JSONResponse:
    """Returns the response to a request to `path` that no `Endpoint` has answered, with a new id or this."""
    is_anthropic = path.startswith(ANTHROPIC_PATH)
    form, id_header = (anthropic_form, ANTHROPIC_ID) if is_anthropic else (openai_form, OPENAI_ID)
    request_id = request_id or new_request_id()
    said = {id_header: request_id, **(headers or {})}
    if (after := retry_after(error)) is not None:
        said["retry-after"] = after
    return JSONResponse(form(error, request_id), error.status, said)
