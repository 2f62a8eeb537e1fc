"""What can go wrong between the API and the engines, and the HTTP status of each.

    ServiceError (500)
    ├── BadRequestError (400)         the request is wrong; `param` says where
    ├── BodiesBusyError (503)         longer bodies wait to be read than can be
    ├── DeadlyRequestError (500)      engines have died of it
    ├── EngineAbortedError (503)      the engine has given the sequence up; the request may be sent again
    ├── EngineFailedError (500)       something in an engine that nobody has foreseen
    ├── EngineLostError (503)         the replica that was generating has died; the request may be sent again
    ├── EngineUnavailableError (503)  no engine replica is ready
    ├── EngineUnreachableError (503)  the replica that was generating may live, and is cut off
    ├── GrammarsBusyError (503)       the workers that check grammars have more to do than they can
    ├── IngressBlockedError (503)     the ingress does not take the tokens that are meant for it
    ├── IngressLostError (503)        the ingress that has sent a sequence is gone
    ├── KeyLimitError (429)           the API key has used up one of its limits
    ├── ModelNotFoundError (404)      the request names a model that is not served
    ├── OverloadedError (429)         no engine has room, and the queue is full or too slow
    ├── SlowClientError (408)         the client does not read its stream
    ├── TooLargeError (413)           the request's body is larger than any is read
    └── TokensLostError (503)         tokens did not arrive at the ingress; the request may be sent again

The ingress turns them into OpenAI error bodies; nothing below it knows about HTTP.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any


class ServiceError(Exception):
    """Base of the errors that this service raises itself. `status` is what the client sees."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    param: str | None = None
    """The field of the request that is wrong, as OpenAI's error object names it."""
    code: str | None = None
    """OpenAI's word for what is wrong, where it has one."""
    may_be_sent_again = True
    """False where clients that send requests again by themselves are told not to."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: when sending the request again will do, where that is known."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> Any:
        # By its fields, and not by the arguments of a constructor that it may not have: engines raise some.
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[ServiceError], args: tuple[object, ...], fields: dict[str, object]) -> ServiceError:
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    return error


class BadRequestError(ServiceError):
    """`param` is the field that is wrong, `code` what is wrong with it, as OpenAI's error object names it."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, message: str, param: str | None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class BodiesBusyError(ServiceError):
    """More and longer bodies wait to be read than can be."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class DeadlyRequestError(ServiceError):
    """Engines have died while this request alone ran on them."""

    may_be_sent_again = False


class EngineAbortedError(ServiceError):
    """The engine has ended a sequence that nobody has cancelled."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class EngineFailedError(ServiceError):
    """Something that nobody has foreseen: the log of the ingress has it whole."""


class EngineLostError(ServiceError):
    """The replica that was generating has died."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class EngineUnavailableError(ServiceError):
    """No engine replica is ready."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class EngineUnreachableError(ServiceError):
    """The replica that was generating is cut off from this ingress."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class GrammarsBusyError(ServiceError):
    """The workers that check grammars have more to do than they can."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class IngressBlockedError(ServiceError):
    """The ingress does not take the tokens that an engine has for it."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class IngressLostError(ServiceError):
    """The ingress that has sent a sequence is gone, or cannot be reached."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class KeyLimitError(ServiceError):
    """The API key has as many requests open as it may, or has used its tokens."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class ModelNotFoundError(ServiceError):
    """The request names a model that is not served."""

    status = HTTPStatus.NOT_FOUND
    param, code = "model", "model_not_found"


class OverloadedError(ServiceError):
    """No engine has room, and the queue is full or too slow."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class SlowClientError(ServiceError):
    """The client reads its stream more slowly than it is generated, and is too far behind."""

    status = HTTPStatus.REQUEST_TIMEOUT


class TooLargeError(ServiceError):
    """The request's body is larger than any is read."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class TokensLostError(ServiceError):
    """Tokens did not arrive at the ingress."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


# OpenAI's `type` of an error, by status; all others are `server_error`.
_TYPES = {
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
}
# OpenAI's `code`, where a status has one and the error does not say another.
_CODES = {HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded"}
# The whole body stays below 2 KB, whatever the message quotes.
MAX_MESSAGE_CHARS = 1000
MAX_PARAM_CHARS = 200


def error_body(
    message: str, status: HTTPStatus, param: str | None = None, code: str | None = None
) -> dict[str, object]:
    """Returns OpenAI's error object, short whatever is given."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return {
        "error": {
            "message": _short(message, MAX_MESSAGE_CHARS),
            "type": _TYPES.get(status, kind),
            "param": _short(param, MAX_PARAM_CHARS) if param else None,
            "code": code or _CODES.get(status),
        }
    }


def body_of(error: ServiceError) -> dict[str, object]:
    """Returns OpenAI's error object of an error."""
    return error_body(str(error), HTTPStatus(error.status), error.param, error.code)


# What a client is told of an error that is none of the above.
UNFORESEEN = "an unforeseen error; the log of the service has it, by the request's id"

# What a sentence about a request consists of. No slash or backslash: no path.
_SENTENCE = re.compile(r"[\w .,;:!?()\[\]{}'\"`=<>+*^%-]{1,500}", re.ASCII)
# What a process says of itself: addresses in memory and on the network, names of hosts and modules, source.
_OF_A_PROCESS = re.compile(
    r"0x|(?=[0-9]*[a-f])[0-9a-f]{12}|\d[.-]\d+[.-]\d|:\d|:\w*:|\w\.\w+\.\w|\w\.py\b|\bpid\b|traceback",
    re.IGNORECASE,
)


def may_be_quoted(words: str) -> bool:
    """Whether a client may read what a library says of a request: a sentence that tells nothing of us.

    Where in doubt it may not: nobody knows what a library will say one day.
    """
    return bool(_SENTENCE.fullmatch(words)) and not _OF_A_PROCESS.search(words)


def _short(text: str, max_chars: int) -> str:
    # In bytes, since a character may take four and its escape in JSON twelve.
    short = text.encode(errors="replace")[:max_chars].decode(errors="ignore")
    return short if short == text else short + " ..."
