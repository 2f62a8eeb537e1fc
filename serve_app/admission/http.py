"""Admission of HTTP requests: before anything is rendered, one question to the gate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.admission.client import GateClient, Ticket
from serve_app.admission.messages import RateLimits, Tier
from serve_app.admission.places import Place
from serve_app.errors import ServiceError, error_body

# Those of the API's paths that make an engine work.
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GENERATING = frozenset({CHAT, f"{CHAT}/batch", COMPLETIONS, "/v1/responses", "/v1/messages"})
TIERS = {"priority": Tier.PRIORITY, "flex": Tier.FLEX}
# OpenAI's limit for `n`. Those of a larger batch are asked for one by one, as they begin.
MAX_SEQUENCES = 128
# What `Retry-After` is for.
RETRYABLE = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Visit:
    """One HTTP request, from its first byte to its last."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.ticket: Ticket | None = None

    def take_place(self) -> Place:
        """Returns the place of this request's next sequence."""
        assert self.ticket is not None
        return self.ticket.take_place()

    @property
    def refusal(self) -> ServiceError | None:
        """What the gate has said to it, if that is no."""
        return self.ticket.refusal if self.ticket else None


_visit: ContextVar[Visit] = ContextVar("visit")


def current_visit() -> Visit:
    """The HTTP request that this task works for."""
    return _visit.get()


class Visits:
    """ASGI middleware: makes the `Visit`, ends it with the response, and adds its headers to the response.

    A response that begins while the request waits for its turn (the events that open a stream of the
    Responses API need no engine) is held back until then: it may still become a 429.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] not in GENERATING:
            await self.app(scope, receive, send)
            return
        visit = Visit(key_of(Headers(scope=scope)))
        response = _Response(visit, send)
        token = _visit.set(visit)
        try:
            await self.app(scope, receive, response.send)
            await response.end(scope, receive)
        finally:
            _visit.reset(token)
            if visit.ticket:
                visit.ticket.close()


class _Response:
    """The way out of one visit."""

    def __init__(self, visit: Visit, send: Send) -> None:
        self._visit, self._send = visit, send
        self._held: list[Message] = []
        self._has_begun = False

    async def send(self, message: Message) -> None:
        """ASGI."""
        visit = self._visit
        if not self._has_begun:
            is_good = message["type"] != "http.response.start" or message["status"] == HTTPStatus.OK
            if is_good and visit.ticket and (visit.ticket.is_waiting or (self._held and visit.refusal)):
                self._held.append(message)
                return
            self._has_begun = True
            held, self._held = self._held, []
            for earlier in held:
                await self._send_on(earlier)
        await self._send_on(message)

    async def _send_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(dict(headers(self._visit, message["status"])))
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive) -> None:
        """The application has said all. What is held is not sent if its turn has not come."""
        if self._has_begun or not self._held:
            return
        self._has_begun = True
        if error := self._visit.refusal:
            await JSONResponse(error_body(str(error), error.status), error.status)(
                scope, receive, self._send_on
            )
            return
        for message in self._held:
            await self._send_on(message)


async def admit(gate: GateClient, request: Request, body: Any) -> None:
    """Asks the gate for a request with this JSON body, which has been checked. Raises what refuses it."""
    if request.scope["path"] not in GENERATING:
        return
    visit = current_visit()
    num_sequences = num_sequences_of(request.scope["path"], body)
    visit.ticket = gate.ask(visit.key, tier_of(body), num_sequences)
    await visit.ticket.admitted()


def key_of(request_headers: Headers) -> str:
    """Returns what tells API keys apart and is none: a digest. Requests without one share the empty key."""
    authorization = request_headers.get("authorization", "")
    scheme, _, token = authorization.partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else request_headers.get("x-api-key", "")
    return hashlib.sha256(key.encode()).hexdigest()[:16] if key else ""


def tier_of(body: Any) -> Tier:
    """Returns the tier of OpenAI's `service_tier`; other values are the default one."""
    tier = body.get("service_tier") if isinstance(body, dict) else None
    return TIERS.get(tier, Tier.DEFAULT) if isinstance(tier, str) else Tier.DEFAULT


def num_sequences_of(path: str, body: Any) -> int:
    """Returns how many answers are asked for: `n` for each prompt. What makes no sense vLLM will refuse."""
    if not isinstance(body, dict) or path not in (CHAT, COMPLETIONS):
        return 1
    n, prompt = body.get("n"), body.get("prompt") if path == COMPLETIONS else None
    # A list of numbers is one prompt, as token ids.
    is_batch = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    num_prompts = len(prompt) if isinstance(prompt, list) and is_batch else 1
    num_each = n if isinstance(n, int) and n > 0 else 1
    return min(num_prompts * num_each, MAX_SEQUENCES)


def headers(visit: Visit, status: int) -> Iterator[tuple[str, str]]:
    """Yields the headers that a response with this status gets."""
    if status in RETRYABLE and visit.refusal and visit.refusal.retry_after_s is not None:
        yield "retry-after", str(math.ceil(visit.refusal.retry_after_s))
    if visit.ticket and visit.ticket.limits:
        yield from limit_headers(visit.ticket.limits)


def limit_headers(limits: RateLimits) -> Iterator[tuple[str, str]]:
    """Yields OpenAI's `x-ratelimit-*`."""
    for name, most, remaining, reset_s in (
        ("requests", limits.max_requests, limits.remaining_requests, limits.requests_reset_s),
        ("tokens", limits.max_tokens, limits.remaining_tokens, limits.tokens_reset_s),
    ):
        if most is not None:
            yield f"x-ratelimit-limit-{name}", str(most)
            yield f"x-ratelimit-remaining-{name}", str(remaining)
            yield f"x-ratelimit-reset-{name}", duration(reset_s)


def duration(seconds: float) -> str:
    """Returns a duration as OpenAI writes it: `6m0s`, `1.5s`, `20ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
