"""One HTTP connection, one request at a time. Receiving notes the time and keeps the bytes, nothing more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from serve_app.bench.request_record import MALFORMED, RESET, TIMEOUT, TRUNCATED, Raw

_INFORMATIONAL = range(100, 200)


class Connection(asyncio.Protocol):
    """A connection that `send` uses again after each request while `is_reusable`."""

    def __init__(self) -> None:
        self.is_reusable = False
        self.idle_since_ns = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._raw: Raw | None = None
        self._on_end: Callable[[Connection, Raw], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._now_ns = 0
        self._has_head = self._is_delimited = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From here on it can be used."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self.is_reusable = True

    def send(
        self, request: bytes, raw: Raw, timeout_s: float, on_end: Callable[[Connection, Raw], None]
    ) -> None:
        """Send a request; `on_end` is called once, with what came back or why nothing did."""
        self._raw, self._on_end = raw, on_end
        raw.sent_ns = self._now_ns = time.monotonic_ns()
        if self._transport is None or not self.is_reusable:
            self._end(RESET, "the connection was closed before the request")
            return
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = self._is_delimited = False
        self._keep_piece = raw.pieces.append
        self._keep_stamp = raw.stamps.append
        self._feed = self._parser.feed_data
        self._timer = self._loop.call_later(timeout_s, self._give_up, timeout_s)
        self._transport.write(request)

    def close(self) -> None:
        """Close the connection without an answer to anybody."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """The timed path."""
        self._now_ns = time.monotonic_ns()
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._end(MALFORMED, f"not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        """How the body ends, and when to come back."""
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._is_delimited = True
        elif name == b"retry-after" and self._raw is not None:
            self._raw.retry_after = value

    def on_headers_complete(self) -> None:
        """The status is known."""
        assert self._raw is not None
        self._raw.status = self._parser.get_status_code()
        self._has_head = self._raw.status not in _INFORMATIONAL

    def on_body(self, body: bytes) -> None:
        """The timed path."""
        self._keep_piece(body)
        self._keep_stamp(self._now_ns)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it only announces another."""
        if self._has_head and self._raw is not None:
            self._raw.is_complete = True
            self.is_reusable = self._parser.should_keep_alive()
            self._end(None, None)

    def connection_lost(self, error: Exception | None) -> None:
        """A body that nothing delimits ends so; anything else is broken off."""
        self.is_reusable = False
        if self._raw is None:
            return
        self._now_ns = time.monotonic_ns()
        if self._has_head and not self._is_delimited and error is None:
            self._raw.is_complete = True
            self._end(None, None)
        elif error is not None:
            self._end(RESET, str(error) or type(error).__name__)
        elif self._has_head:
            self._end(TRUNCATED, "the connection was closed within the answer")
        else:
            self._end(RESET, "the connection was closed without an answer")

    def _give_up(self, timeout_s: float) -> None:
        self._now_ns = time.monotonic_ns()
        self._end(TIMEOUT, f"not finished after {timeout_s:g} s")

    def _end(self, failure: str | None, message: str | None) -> None:
        raw, on_end = self._raw, self._on_end
        if raw is None or on_end is None:
            return
        self._raw = self._on_end = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        raw.end_ns = self._now_ns
        raw.failure, raw.message = failure, message
        if failure is not None:
            self.close()
        elif not self.is_reusable and self._transport is not None:
            self._transport.close()
        self.idle_since_ns = raw.end_ns
        on_end(self, raw)
