"""All routes of the API, over a generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from serve_app.admission.client import GateClient
from serve_app.api import documentation, long_bodies, models, tokenization
from serve_app.api.application import GET
from serve_app.api.chat import exchange as chat
from serve_app.api.completions import exchange as completions
from serve_app.api.endpoint import Endpoint, check_content_type
from serve_app.api.error_forms import ANTHROPIC_ID, OPENAI_ID, anthropic_form, openai_form
from serve_app.api.exchange import Exchange
from serve_app.api.fields import check_values, read_body
from serve_app.api.generation import Generator
from serve_app.api.messages import exchange as messages
from serve_app.api.responses import exchange as responses
from serve_app.api.sealing import Sealer
from serve_app.errors import BadRequestError, ServiceError
from serve_app.harmony.tokens import Vocabulary

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"

# All of Anthropic's clients send it.
VERSION_HEADER = "anthropic-version"

Body = Mapping[str, Any]


class NothingStoredError(ServiceError):
    """The request is about a response of an earlier request."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


@dataclass(frozen=True)
class Service:
    """What the routes need to know of the service."""

    served_names: tuple[str, ...]
    model_root: str
    vllm_version: str
    keep_alive_s: float
    watches_clients: bool = True


def add_routes(
    app: FastAPI,
    generator: Generator,
    gate: GateClient,
    vocabulary: Vocabulary,
    sealer: Sealer,
    service: Service,
) -> None:
    """Adds the routes of the three APIs, of Completions and of what belongs to them to `app`."""
    parse_completion = partial(
        completions.exchange,
        # What is too long is refused: no need to know by how much.
        encode=partial(vocabulary.encode_prompt, max_tokens=generator.max_model_len),
        vocabulary_size=len(vocabulary.token_bytes),
    )
    parse_response = partial(responses.exchange, sealer=sealer)
    parse_message = partial(messages.exchange, sealer=sealer)
    openai = {"error_body": openai_form, "id_header": OPENAI_ID}
    anthropic = {"error_body": anthropic_form, "id_header": ANTHROPIC_ID}
    for path, api, parse, prompt_param, form in (
        (CHAT, "chat", chat.exchange, "messages", openai),
        (COMPLETIONS, "completions", parse_completion, "prompt", openai),
        (RESPONSES, "responses", parse_response, "input", openai),
        (MESSAGES, "messages", parse_message, "messages", anthropic),
    ):
        endpoint = Endpoint(
            generator,
            gate,
            api=api,
            parse=parse,
            prompt_param=prompt_param,
            keep_alive_s=service.keep_alive_s,
            watches_clients=service.watches_clients,
            **form,  # type: ignore[arg-type]
        )
        app.router.routes.append(Route(path, endpoint, methods=["POST"], name=api))

    def count(exchange: Exchange[Any], prompt_param: str) -> int:
        generator.check_model(exchange.model)
        return len(generator.prompts(exchange, prompt_param)[0])

    def count_response(body: Body) -> Any:
        return responses.input_tokens_body(count(parse_response(body), "input"))

    def count_message(body: Body) -> Any:
        return messages.count_body(count(parse_message(body, counting=True), "messages"))

    def tokenize(body: Body) -> Any:
        generator.check_model(_model(body))
        return tokenization.tokenize_body(
            body, vocabulary.encode_prompt, generator.render, generator.max_model_len, vocabulary
        )

    def detokenize(body: Body) -> Any:
        generator.check_model(_model(body))
        return tokenization.detokenize_body(body, vocabulary)

    _add_json_route(app, f"{RESPONSES}/input_tokens", count_response)
    _add_json_route(app, f"{MESSAGES}/count_tokens", count_message)
    _add_json_route(app, "/tokenize", tokenize)
    _add_json_route(app, "/detokenize", detokenize)
    _add_models(app, service, generator.max_model_len)

    async def stored(response_id: str) -> JSONResponse:
        """404: nothing is stored."""
        raise NothingStoredError(f"there is no response {response_id[:100]!r}: this service stores nothing")

    app.add_api_route(RESPONSES + "/{response_id}", stored, methods=["GET", "DELETE"])
    app.add_api_route(RESPONSES + "/{response_id}/cancel", stored, methods=["POST"])
    app.add_api_route(RESPONSES + "/{response_id}/input_items", stored, methods=["GET"])

    async def version() -> dict[str, str]:
        """The version of vLLM."""
        return {"version": service.vllm_version}

    app.add_api_route("/version", version, methods=GET)
    documentation.add_documents(app)


def _add_models(app: FastAPI, service: Service, max_model_len: int) -> None:
    listed = partial(models.list_body, service.served_names, service.model_root, max_model_len)
    one = partial(models.model_body, service.served_names, service.model_root, max_model_len)

    # Anthropic's API has the same paths.
    async def list_models(request: Request) -> dict[str, Any]:
        """The served names."""
        return listed(is_anthropic=VERSION_HEADER in request.headers)

    async def get_model(request: Request, name: str) -> dict[str, Any]:
        """One served name, or 404."""
        return one(name, is_anthropic=VERSION_HEADER in request.headers)

    app.add_api_route("/v1/models", list_models, methods=GET)
    app.add_api_route("/v1/models/{name:path}", get_model, methods=GET)


def _model(body: Body) -> str | None:
    name = body.get("model")
    return name if isinstance(name, str) else None


def _add_json_route(app: FastAPI, path: str, answer: Callable[[Body], Any]) -> None:
    """Adds a POST that needs no engine."""

    def answered(raw: bytes) -> bytes:
        body = read_body(raw)
        check_values(body, raw)
        try:
            return msgspec.json.encode(answer(body))
        except RecursionError:
            # The JSON was read, but what comes after needs more of the stack for each level.
            raise BadRequestError("the request body is nested too deeply", None) from None

    async def route(request: Request) -> Response:
        check_content_type(request.headers)
        raw = await request.body()
        content = await long_bodies.done(len(raw), lambda: answered(raw))
        return Response(content, media_type="application/json")

    route.__doc__ = answer.__doc__
    app.add_api_route(path, route, methods=["POST"])
