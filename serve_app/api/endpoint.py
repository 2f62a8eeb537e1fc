"""The HTTP side of a route that generates: a body in, an answer out, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from serve_app.admission.admission_request import AdmissionRequest
from serve_app.admission.client import GateClient
from serve_app.admission.http import key_of, limit_headers, retry_after, tier_of
from serve_app.api import long_bodies
from serve_app.api.error_forms import ErrorForm, new_request_id
from serve_app.api.exchange import Exchange
from serve_app.api.fields import check_values, read_body
from serve_app.api.generation import Generator, Run
from serve_app.errors import UNFORESEEN, BadRequestError, EngineFailedError, ServiceError

logger = logging.getLogger("ray.serve")

# A comment of server-sent events: clients pass over it, and whatever is between sees that the line is in use.
KEEP_ALIVE = b": keep-alive\n\n"
# Chat Completions and Completions, its newer name, Responses.
MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# A client that sends the first is told by the second, which ends a stream as a comment.
REPORT_HEADER, MIGRATIONS_HEADER = "x-report-migrations", "x-migrations"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Endpoint:
    """An ASGI application for the POST of one route. All it needs to know of the API is given to it."""

    def __init__(
        self,
        generator: Generator,
        gate: GateClient,
        *,
        api: str,
        parse: Callable[[dict[str, Any]], Exchange[Any]],
        prompt_param: str,
        error_body: ErrorForm,
        id_header: str,
        keep_alive_s: float,
        watches_clients: bool = True,
    ) -> None:
        """`api` names it in metrics, `prompt_param` is the field that the prompt comes from.

        `id_header` is the response's header with the id of the request. A stream that has nothing to send for
        `keep_alive_s` is sent a comment. `watches_clients` is False where the server cancels the task of a
        request whose client has gone, as Serve does; ASGI says so by a message.
        """
        self._watches_clients = watches_clients
        self._generator, self._gate, self._api = generator, gate, api
        self._parse, self._prompt_param, self._error_body = parse, prompt_param, error_body
        self._id_header, self._keep_alive_s = id_header, keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Returns early when its client has gone."""
        request = _Request(scope, receive, send, self._id_header)
        try:
            body = await request.body()
            if not self._watches_clients:
                await self._answer(request, body)
                return
            # From here on the only message to come is that the client has gone.
            watch = asyncio.create_task(_cancel_when_gone(receive, request))
            try:
                await self._answer(request, body)
            finally:
                watch.cancel()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not request.is_left or (task is not None and task.uncancel()):
                raise

    async def _answer(self, request: _Request, raw: bytes) -> None:
        """Answers it, and ends all that was opened for it: before an error is sent, which may take long."""
        try:
            check_content_type(request.headers)
            body, exchange, params = await long_bodies.done(len(raw), lambda: self._read(raw))
            request.warnings = exchange.warnings
            await self._generator.check_grammar(exchange)
            num_sequences = exchange.num_choices * max(1, len(exchange.prompts))
            admission = request.admission = self._gate.ask(
                key_of(request.headers), tier_of(body), num_sequences
            )
            await admission.admitted()
            prompts = await long_bodies.done(
                len(raw), lambda: self._generator.prompts(exchange, self._prompt_param)
            )
            run = request.run = await self._generator.start(
                self._api, exchange, params, prompts, request.id, admission.take_slot
            )
            await (self._stream if exchange.is_streamed else self._whole)(request, run)
        except ServiceError as error:
            request.close()
            await self._fail(request, error)
        except Exception:
            request.close()
            logger.exception("request %s on %s failed", request.id, request.path)
            await self._fail(request, EngineFailedError(UNFORESEEN))
        finally:
            request.close()

    def _read(self, raw: bytes) -> tuple[dict[str, Any], Exchange[Any], Any]:
        """Returns the body, what it asks for and the engine's sampling parameters."""
        body = read_body(raw)
        check_values(body, raw)
        try:
            exchange = self._parse(body)
        except RecursionError:
            # The JSON was read, but what comes after needs more of the stack for each level.
            raise BadRequestError("the request body is nested too deeply", None) from None
        self._check_max_tokens(body)
        return body, exchange, self._generator.params(exchange)

    def _check_max_tokens(self, body: dict[str, Any]) -> None:
        most = self._generator.max_model_len
        for field in MAX_TOKENS_FIELDS:
            value = body.get(field)
            if isinstance(value, int) and value > most:
                raise BadRequestError(
                    f"{field} is {value}; this model generates at most {most} tokens, prompt included", field
                )

    async def _whole(self, request: _Request, run: Run[Any]) -> None:
        events = list(run.encoder.begin())
        while not run.is_over:
            events += await run.next_events()
        await request.send_json(HTTPStatus.OK, run.encoder.fold(events))

    async def _stream(self, request: _Request, run: Run[Any]) -> None:
        encoder = run.encoder
        # Sent with the first event, so that what goes wrong until then is a status.
        opening = list(encoder.begin())
        keep_alive = _KeepAlive(self._keep_alive_s, run.inbox.wake)
        try:
            while not run.is_over:
                events = await run.next_events()
                if events:
                    if opening:
                        events, opening = [*opening, *events], []
                    chunk = b"".join(map(encoder.to_bytes, events))
                elif keep_alive.is_due:
                    chunk = KEEP_ALIVE
                else:
                    continue
                keep_alive.sent()
                await request.send_chunk(chunk)
            await request.end_stream(request.report() + encoder.last_bytes())
        finally:
            keep_alive.cancel()

    async def _fail(self, request: _Request, error: ServiceError) -> None:
        if not request.has_begun:
            await request.send_json(error.status, self._error_body(error, request.id), error)
        elif request.run and request.is_stream:
            logger.error("the stream of request %s was ended by an error: %s", request.id, error)
            await request.end_stream(request.run.encoder.error_bytes(error))
        else:
            raise error


class _KeepAlive:
    """Wakes a stream that has sent nothing for a while."""

    def __init__(self, period_s: float, wake: Callable[[], None]) -> None:
        self._period_s, self._wake = period_s, wake
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._timer = self._loop.call_later(period_s, self._check)
        self.is_due = False

    def sent(self) -> None:
        """Something is being sent."""
        self._sent_at = self._loop.time()
        self.is_due = False

    def _check(self) -> None:
        # One timer that looks, instead of one that is set anew with every chunk.
        left = self._sent_at + self._period_s - self._loop.time()
        if left <= 0:
            self.is_due = True
            self._wake()
            left = self._period_s
        self._timer = self._loop.call_later(left, self._check)

    def cancel(self) -> None:
        self._timer.cancel()


class _Request:
    """One HTTP request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, id_header: str) -> None:
        self._receive, self._send, self._id_header = receive, send, id_header
        self.headers = Headers(scope=scope)
        self.path: str = scope["path"]
        given = self.headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else new_request_id()
        self.admission: AdmissionRequest | None = None
        self.run: Run[Any] | None = None
        self.warnings: tuple[str, ...] = ()
        self.has_begun = self.is_stream = self.is_left = False
        self.task = asyncio.current_task()

    async def body(self) -> bytes:
        """Returns the body. Raises `CancelledError` when the client leaves before it is here."""
        pieces: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_left = True
                raise asyncio.CancelledError
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(pieces)

    def close(self) -> None:
        """Ends its sequences, and gives back what the gate has given it. More than one time is as one."""
        if self.run:
            self.run.close()
        if self.admission:
            self.admission.close()

    def report(self) -> bytes:
        """Returns the comment of a stream that says how many engines it has lost, for a client that asks."""
        if not self.run or REPORT_HEADER not in self.headers:
            return b""
        return b": %b %d\n\n" % (MIGRATIONS_HEADER.encode(), self.run.num_lost_engines)

    def _response_headers(self, error: ServiceError | None) -> Iterator[tuple[bytes, bytes]]:
        yield self._id_header.encode(), self.id.encode()
        if self.run and not self.is_stream and REPORT_HEADER in self.headers:
            yield MIGRATIONS_HEADER.encode(), str(self.run.num_lost_engines).encode()
        if self.warnings:
            yield b"x-warning", "; ".join(self.warnings)[:1000].encode("ascii", "replace")
        if error is not None and not error.may_be_sent_again:
            # OpenAI's and Anthropic's clients heed it; of themselves they send what gets 500 twice more.
            yield b"x-should-retry", b"false"
        if error is not None and (after := retry_after(error)) is not None:
            yield b"retry-after", after.encode()
        if self.admission and self.admission.limits:
            for name, value in limit_headers(self.admission.limits):
                yield name.encode(), value.encode()

    async def send_json(self, status: int, body: Any, error: ServiceError | None = None) -> None:
        """Sends a whole response."""
        content = msgspec.json.encode(body)
        self.has_begun = True
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *self._response_headers(error),
        ]
        await self._send({"type": "http.response.start", "status": int(status), "headers": headers})
        await self._send({"type": "http.response.body", "body": content, "more_body": False})

    async def send_chunk(self, chunk: bytes) -> None:
        """Sends a piece of the stream, and with the first one its start."""
        if not self.has_begun:
            self.has_begun = self.is_stream = True
            headers = [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache"),
                *self._response_headers(None),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end_stream(self, chunk: bytes) -> None:
        """Sends the last piece."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})


async def _cancel_when_gone(receive: Receive, request: _Request) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    request.is_left = True
    if request.task:
        request.task.cancel()


def check_content_type(headers: Headers) -> None:
    """Raises `BadRequestError` unless the body is JSON by its header.

    A page in a browser may send other types to any server without asking it (CORS): none of them is read.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise BadRequestError("the request's content-type must be application/json", None)
