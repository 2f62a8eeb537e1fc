"""What can go wrong between the API and the engines, and the HTTP status of each.

    ServiceError (500)
    ├── BadRequestError (400)         the request breaks one of `request_rules`
    ├── EngineLostError (503)         the replica that was generating has died; the request may be sent again
    ├── EngineUnavailableError (503)  no engine replica is ready
    ├── IngressBlockedError (503)     the ingress does not take the tokens that are meant for it
    ├── KeyLimitError (429)           the API key has used up one of its limits
    ├── OverloadedError (429)         no engine has room, and the queue is full or too slow
    ├── SlowClientError (408)         the client does not read its stream
    └── TokensLostError (503)         tokens did not arrive at the ingress; the request may be sent again

The ingress turns them into OpenAI error bodies; nothing below it knows about HTTP.
"""

from __future__ import annotations

from http import HTTPStatus


class ServiceError(Exception):
    """Base of the errors that this service raises itself. `status` is what the client sees."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: when sending the request again will do, where that is known."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadRequestError(ServiceError):
    """`param` is the field that is wrong, as OpenAI's error object names it."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class EngineLostError(ServiceError):
    """The replica that was generating has died."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class EngineUnavailableError(ServiceError):
    """No engine replica is ready."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class IngressBlockedError(ServiceError):
    """The ingress does not take the tokens that an engine has for it."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class KeyLimitError(ServiceError):
    """The API key has as many requests open as it may, or has used its tokens."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class OverloadedError(ServiceError):
    """No engine has room, and the queue is full or too slow."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class SlowClientError(ServiceError):
    """The client reads its stream more slowly than it is generated, and is too far behind."""

    status = HTTPStatus.REQUEST_TIMEOUT


class TokensLostError(ServiceError):
    """Tokens did not arrive at the ingress."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


def error_body(message: str, status: HTTPStatus, param: str | None = None) -> dict[str, object]:
    """OpenAI's error object, with vLLM's choice of `type` (the status phrase) and `code` (the number)."""
    return {"error": {"message": message, "type": status.phrase, "param": param, "code": status.value}}
