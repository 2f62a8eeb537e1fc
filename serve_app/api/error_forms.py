"""How an error is said: in OpenAI's form, or in Anthropic's to the clients of its API."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from serve_app.api.messages import errors as messages_errors
from serve_app.errors import ServiceError, body_of

ANTHROPIC_PATH = "/v1/messages"


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


def form_of(path: str) -> ErrorForm:
    """Returns the form for requests to `path`."""
    return anthropic_form if path.startswith(ANTHROPIC_PATH) else openai_form


def new_request_id() -> str:
    """Returns an id for a request that came without one."""
    return f"req_{uuid.uuid4().hex}"
