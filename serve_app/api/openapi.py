"""The OpenAPI document: each route, what it takes and what it answers, by the same structs that are used.

Routes that generate read their bodies themselves, so nobody can derive this from the routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from serve_app.api.chat.request import ChatRequest
from serve_app.api.chat.response import ChatAnswer, ChatChunk
from serve_app.api.completions.request import CompletionRequest
from serve_app.api.completions.response import Completion, CompletionChunk
from serve_app.api.messages.errors import ErrorBody as AnthropicError
from serve_app.api.messages.events import Message, StreamEvent
from serve_app.api.messages.request import MessagesRequest
from serve_app.api.models import Model, ModelList
from serve_app.api.responses.events import Response, ResponseEvent
from serve_app.api.responses.request import ResponsesRequest
from serve_app.api.tokenization import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

VERSION = "3.1.0"
# What tells structs of one name apart begins with it.
_PACKAGE = b"serve_app.api."


class ErrorObject(msgspec.Struct, frozen=True):
    """What is wrong, in a sentence; of the request, `param` is the field."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error response, and what ends a stream that has begun."""

    error: ErrorObject


class InputTokens(msgspec.Struct, frozen=True):
    """The length of a prompt."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class TokenCount(msgspec.Struct, frozen=True):
    """The length of a prompt."""

    input_tokens: int


class Health(msgspec.Struct, frozen=True):
    """At least one engine can generate."""

    status: Literal["ready"]
    ready_engines: int


class Life(msgspec.Struct, frozen=True):
    """This ingress answers."""

    status: Literal["live"]


class Version(msgspec.Struct, frozen=True):
    """The version of vLLM."""

    version: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a route. The types are those of the bodies; `events` are those of a stream."""

    method: Literal["get", "post", "delete"]
    path: str
    summary: str
    request: Any = None
    answer: Any = None
    """None where there are only errors."""
    events: Any = None
    error: Any = ErrorBody

    @property
    def types(self) -> list[Any]:
        """All types, those that there are not as the type of null."""
        return [self.request, self.answer, self.events, self.error]


_STORED = "/v1/responses/{response_id}"
OPERATIONS = (
    Operation("post", "/v1/chat/completions", "Answer a chat", ChatRequest, ChatAnswer, ChatChunk),
    Operation("post", "/v1/completions", "Go on with a text", CompletionRequest, Completion, CompletionChunk),
    Operation("post", "/v1/responses", "Answer a chat", ResponsesRequest, Response, ResponseEvent),
    Operation("post", "/v1/messages", "Answer a chat", MessagesRequest, Message, StreamEvent, AnthropicError),
    Operation("post", "/v1/responses/input_tokens", "Count tokens", ResponsesRequest, InputTokens),
    Operation(
        "post", "/v1/messages/count_tokens", "Count tokens", MessagesRequest, TokenCount,
        error=AnthropicError,
    ),
    Operation("get", "/v1/models", "List the names of the model", answer=ModelList),
    Operation("get", "/v1/models/{name}", "Show a name of the model", answer=Model),
    Operation("post", "/tokenize", "Show the tokens of a text or a chat", TokenizeRequest, TokenizeResponse),
    Operation("post", "/detokenize", "Show the text of tokens", DetokenizeRequest, DetokenizeResponse),
    Operation("get", _STORED, "404: nothing is stored"),
    Operation("delete", _STORED, "404: nothing is stored"),
    Operation("post", f"{_STORED}/cancel", "404: nothing is stored"),
    Operation("get", f"{_STORED}/input_items", "404: nothing is stored"),
    Operation("get", "/health", "Whether an engine can generate", answer=Health),
    Operation("get", "/health/ready", "Whether an engine can generate", answer=Health),
    Operation("get", "/health/live", "Whether this ingress answers", answer=Life),
    Operation("get", "/version", "The version of vLLM", answer=Version),
)  # fmt: skip


def document(title: str, version: str) -> dict[str, Any]:
    """Returns the document for a service of this name and version."""
    types = [kind for operation in OPERATIONS for kind in operation.types]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for index, operation in enumerate(OPERATIONS):
        request, answer, events, error = schemas[4 * index : 4 * index + 4]
        described: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": f"{operation.method}{operation.path.translate(_TO_NAME)}",
            "responses": {"default": {"description": "An error", "content": _json(error)}},
        }
        if parameters := _parameters(operation.path):
            described["parameters"] = parameters
        if operation.request is not None:
            described["requestBody"] = {"required": True, "content": _json(request)}
        if operation.answer is not None:
            content = _json(answer)
            if operation.events is not None:
                content["text/event-stream"] = {"schema": events}
            described["responses"]["200"] = {"description": _description(operation), "content": content}
        paths.setdefault(operation.path, {})[operation.method] = described
    whole = {
        "openapi": VERSION,
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }
    named: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole).replace(_PACKAGE, b""))
    return named


_TO_NAME = str.maketrans({"/": "_", "{": None, "}": None})


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _description(operation: Operation) -> str:
    if operation.events is None:
        return "The answer"
    return "The answer, or with `stream` its events one by one: the schema is that of an event's data"


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in path.split("/")
        if part.startswith("{")
    ]
