"""What can go wrong between the API and the engines, and the HTTP status of each.

    ServiceError (500)
    ├── EngineLostError (503)         the replica that was generating has died; the request may be sent again
    ├── EngineUnavailableError (503)  no engine replica is ready
    └── OverloadedError (503)         Serve's queue for the engines is full

The ingress turns them into OpenAI error bodies; nothing below it knows about HTTP.
"""

from __future__ import annotations

from http import HTTPStatus


class ServiceError(Exception):
    """Base of the errors that this service raises itself. `status` is what the client sees."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR


class EngineLostError(ServiceError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class EngineUnavailableError(ServiceError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class OverloadedError(ServiceError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


def error_body(message: str, status: HTTPStatus) -> dict[str, object]:
    """OpenAI's error object, with vLLM's choice of `type` (the status phrase) and `code` (the number)."""
    return {"error": {"message": message, "type": status.phrase, "param": None, "code": status.value}}
