"""Errors as Anthropic's clients look for them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

import msgspec

from serve_app.errors import MAX_MESSAGE_CHARS, BadRequestError, ServiceError

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "timeout_error",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
]

_TYPES: dict[int, ErrorType] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_TIMEOUT: "timeout_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


class ErrorObject(msgspec.Struct):
    """What is wrong."""

    type: ErrorType
    message: str
    details: dict[str, Any] | None = None


class ErrorBody(msgspec.Struct, tag_field="type", tag="error"):
    """The body of an error response, and the data of the event `error`."""

    error: ErrorObject
    request_id: str | None = None


class UnservedFeatureError(BadRequestError):
    """The request uses a feature without which Anthropic's clients go on, told of it by `details`."""

    def __init__(self, message: str, param: str, details: dict[str, Any]) -> None:
        super().__init__(message, param)
        self.details = details


def error_body(error: ServiceError, request_id: str | None = None) -> dict[str, Any]:
    """Returns Anthropic's error body; it has no field for the place, which is part of the message."""
    message = str(error)
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    body = error_body_of(message, error.status, request_id)
    if isinstance(error, UnservedFeatureError):
        body["error"]["details"] = error.details
    return body


def error_body_of(message: str, status: int, request_id: str | None = None) -> dict[str, Any]:
    """Returns the error body of a status; the message is cut where it is long."""
    # In bytes, since a character may take four.
    short = message.encode(errors="replace")[:MAX_MESSAGE_CHARS].decode(errors="ignore")
    kind: ErrorType = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    return {
        "type": "error",
        "error": {"type": _TYPES.get(status, kind), "message": short},
        "request_id": request_id,
    }
