"""A limit on request bodies that answers in OpenAI's form.

Starlette's own `RequestBodyLimitMiddleware` answers 413 as plain text, whatever the app's error handlers say.
"""

from __future__ import annotations

from http import HTTPStatus

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.error_forms import error_response, route_path
from serve_app.errors import TooLargeError

TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodyLimit:
    """ASGI middleware: a body of more than `max_bytes` ends in 413, unread when its length is declared."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.message = f"the request body is larger than {max_bytes} bytes, the most that is accepted"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        # Other numbers than this, such as "²" or thousands of digits, are left to the count below.
        is_number = declared.isascii() and declared.isdigit() and len(declared) < 20
        if is_number and int(declared) > self.max_bytes:
            response = error_response(route_path(scope), TooLargeError(self.message))
            await response(scope, receive, send)
            return
        num_bytes = 0

        async def limited_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                # While FastAPI reads the body: its error handlers make the answer.
                raise HTTPException(TOO_LARGE, self.message)
            return message

        await self.app(scope, limited_receive, send)
