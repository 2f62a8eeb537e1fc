"""Errors of event streams: before the first byte a status, after it an event and a clean end.

vLLM's handlers answer 200 before they know whether there will be a first token, and say what went wrong in
an event, which few clients look into; on a status they retry. Its Responses handler breaks the connection.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import error_body

logger = logging.getLogger(__name__)


class StreamErrors:
    """ASGI middleware. Looks at the first piece of an event stream only, and holds nothing back.

    The start of the response waits for the first piece of the body: the first token, or the error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stream = _Stream(scope, receive, send)
        try:
            await self.app(scope, receive, stream.send)
        except Exception as error:
            if not stream.is_open:
                raise
            await stream.fail(error)
        else:
            await stream.end()


class _Stream:
    """One response: passed on as it is, unless it is an event stream that opens or ends with an error."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._held_start: Message | None = None
        self._is_replaced = False
        self._last_chunk = b""
        self.is_open = False

    async def send(self, message: Message) -> None:
        if self._is_replaced:
            return  # what follows an opening error: `data: [DONE]`
        if message["type"] == "http.response.start" and _is_event_stream(message):
            self._held_start = message
            return
        chunk: bytes = message.get("body", b"")
        if self._held_start is not None:
            if error := opening_error(chunk):
                self._is_replaced = True
                await JSONResponse(*error)(self._scope, self._receive, self._send)
                return
            await self._send(self._held_start)
            self._held_start, self.is_open = None, True
        await self._send(message)
        if self.is_open:
            self._last_chunk = chunk or self._last_chunk
            self.is_open = message.get("more_body", False)

    async def end(self) -> None:
        """Sends the start of a stream that has ended without a body."""
        if self._held_start is not None and not self._is_replaced:
            await self._send(self._held_start)

    async def fail(self, error: Exception) -> None:
        """Ends an open stream with an event of the Responses API's form; OpenAI's clients raise on it."""
        # Starlette reports that it could not answer, caused by what it could not answer with.
        cause = error.__cause__ or error
        status = getattr(cause, "http_status", HTTPStatus.INTERNAL_SERVER_ERROR)
        logger.error("a stream on %s was ended by an error: %s", self._scope["path"], cause)
        event = {
            "type": "error",
            "code": str(int(status)),
            "message": str(cause),
            "param": None,
            "sequence_number": _sequence_number(self._last_chunk) + 1,
            **error_body(str(cause), HTTPStatus(status)),
        }
        body = f"event: error\ndata: {json.dumps(event)}\n\n".encode()
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self.is_open = False


def _is_event_stream(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")


def _data(chunk: bytes) -> dict[str, Any]:
    """The JSON object of the last event in `chunk`, or an empty one."""
    lines = [line[5:] for line in chunk.splitlines() if line.startswith(b"data:")]
    try:
        body = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _sequence_number(chunk: bytes) -> int:
    number = _data(chunk).get("sequence_number")
    return number if isinstance(number, int) else -1


def opening_error(chunk: bytes) -> tuple[dict[str, Any], int] | None:
    """Returns the error body and its status when `chunk`, the first of a stream, is an error event.

    OpenAI's error events are `data: {"error": {..., "code": STATUS}}`. Ours for Anthropic's clients have the
    same below `event: error`; vLLM's own carry no status.
    """
    if b'"error"' not in chunk:
        return None
    body = _data(chunk.partition(b"\n\n")[0])
    error = body.get("error")
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if not isinstance(code, int) or not 400 <= code <= 599:
        code = HTTPStatus.INTERNAL_SERVER_ERROR
    return body, code
