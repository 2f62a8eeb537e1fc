"""A proxy between client and S3 that breaks what a test wants broken, and remembers every request."""

from __future__ import annotations

import http.client
import os
import select
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

PIECE_BYTES = 16 * 1024
# A test that waits for longer than this has failed.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    connection: int
    """The number of the client's connection, from 1."""
    method: str
    path: str
    first_byte: int | None
    last_byte: int | None
    attempt: int
    """How often this was asked for from this first byte on, from 1: what faults best depend on."""

    @property
    def num_bytes(self) -> int:
        """How many bytes were asked for; 0 without a range."""
        if self.first_byte is None or self.last_byte is None:
            return 0
        return self.last_byte + 1 - self.first_byte


@dataclass
class Exchange:
    """A request and what became of it."""

    request: Request
    status: int = 0
    sent_bytes: int = 0
    """Of the body."""
    is_over: bool = False


@dataclass(frozen=True)
class Fault:
    """What happens to one answer; by default nothing. `_at` counts bytes of the body."""

    status: int = 0
    """An answer of the proxy's own, with S3's error `code`."""
    code: str = ""
    delay_s: float = 0.0
    reset_before_answer: bool = False
    reset_in_head: bool = False
    reset_at: int | None = None
    close_at: int | None = None
    stall_at: int | None = None
    flip_at: int | None = None
    garble_at: int | None = None
    """Here something that is no TLS goes over a TLS connection."""
    shorten_by: int = 0
    """The body is shorter, and Content-Length says so."""
    bytes_per_s: int = 0
    ignore_range: bool = False


OK = Fault()
Plan = Callable[[Request], Fault]


class FaultProxy:
    """Listens on a port of its own until `close`. Everything may be changed while it runs.

    plan: what happens to the answer of each request.
    refuse: whether the connection with this number is reset before anything is read from it.
    """

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        self.plan: Plan = lambda request: OK
        self.refuse: Callable[[int], bool] = lambda connection: False
        self.log: list[Exchange] = []
        self.num_connections = 0
        self.errors: list[BaseException] = []
        self.upstream = urlsplit(upstream)
        self.closing = threading.Event()
        self.lock = threading.Condition()
        self.attempts: Counter[tuple[str, str, int | None]] = Counter()
        self._left: int | None = None
        self._is_held = False
        self._server = _Server(self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        scheme = "https" if tls else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.closing.set()
        self.release()
        self._server.shutdown()
        self._server.server_close()
        assert not self.errors, self.errors

    def forget(self) -> None:
        """Empties the log, and counts attempts from 1 again."""
        with self.lock:
            self.log = []
            self.attempts.clear()

    def gets(self, path_ending: str = "") -> list[Exchange]:
        """The ranged GETs so far, of objects whose path has this ending."""
        with self.lock:
            return [
                exchange
                for exchange in self.log
                if exchange.request.method == "GET"
                and exchange.request.first_byte is not None
                and exchange.request.path.endswith(path_ending)
            ]

    def settle(self) -> None:
        """Waits until all requests that have arrived are done with, also those of clients that are gone."""
        with self.lock:
            assert self.lock.wait_for(lambda: all(exchange.is_over for exchange in self.log), PATIENCE_S)

    # What happens at a certain moment happens while all answers are held back at a certain byte.

    def hold_after(self, num_bytes: int) -> None:
        """Delivers so many bytes of ranges more, over all connections, and then none until `release`."""
        with self.lock:
            self._left, self._is_held = num_bytes, False

    def wait_held(self, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Returns True as soon as all those bytes are delivered and more are due, False when `is_over`."""
        with self.lock:
            for _ in range(int(PATIENCE_S / 0.02)):
                if self._is_held:
                    return True
                if is_over():
                    return False
                self.lock.wait(0.02)
        raise AssertionError("nothing came to the point where it is held")

    def release(self) -> None:
        with self.lock:
            self._left, self._is_held = None, False
            self.lock.notify_all()

    def allowed(self, num_bytes: int) -> int:
        """Waits until some may be delivered; returns how many of `num_bytes`."""
        with self.lock:
            while self._left == 0:
                self._is_held = True
                self.lock.notify_all()
                self.lock.wait()
            if self._left is None:
                return num_bytes
            allowed = min(num_bytes, self._left)
            self._left -= allowed
            return allowed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, tls: ssl.SSLContext | None) -> None:
        self.proxy = proxy
        self.tls = tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        error = cast("BaseException", sys.exc_info()[1])
        # Clients that were killed, and connections that were cut.
        if not isinstance(error, (OSError, ValueError)):
            self.proxy.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.proxy = self.server.proxy
        with self.proxy.lock:
            self.proxy.num_connections += 1
            self.number = self.proxy.num_connections

    def handle(self) -> None:
        if self.proxy.refuse(self.number):
            self.reset()
        else:
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert "chunked" not in self.headers.get("Transfer-Encoding", "")
        request = self.request_of()
        exchange = Exchange(request)
        with self.proxy.lock:
            self.proxy.log.append(exchange)
        try:
            fault = self.proxy.plan(request)
            if fault.delay_s:
                self.proxy.closing.wait(fault.delay_s)
            if fault.reset_before_answer:
                self.reset()
            elif fault.status:
                self.refuse(exchange, fault)
            else:
                self.forward(exchange, fault, body)
        finally:
            with self.proxy.lock:
                exchange.is_over = True
                self.proxy.lock.notify_all()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def request_of(self) -> Request:
        path = urlsplit(self.path).path
        first, last = None, None
        if asked := self.headers.get("Range"):
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
        with self.proxy.lock:
            self.proxy.attempts[self.command, path, first] += 1
            attempt = self.proxy.attempts[self.command, path, first]
        return Request(self.number, self.command, path, first, last, attempt)

    def refuse(self, exchange: Exchange, fault: Fault) -> None:
        exchange.status = fault.status
        body = f"<Error><Code>{fault.code}</Code><Message>No.</Message></Error>".encode()
        head = (
            f"HTTP/1.1 {fault.status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
        )
        self.connection.sendall(head.encode() + b"\r\n" + (b"" if self.command == "HEAD" else body))

    def forward(self, exchange: Exchange, fault: Fault, body: bytes) -> None:
        upstream = http.client.HTTPConnection(
            cast("str", self.proxy.upstream.hostname), self.proxy.upstream.port, timeout=PATIENCE_S
        )
        headers = {
            name: value
            for name, value in self.headers.items()
            if name not in ("Connection", "Expect") and not (fault.ignore_range and name == "Range")
        }
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        exchange.status = answer.status
        length = max(0, int(answer.headers.get("Content-Length", 0)) - fault.shorten_by)
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\nContent-Length: {length}\r\n"
        for name, value in answer.headers.items():
            if name not in ("Content-Length", "Connection"):
                head += f"{name}: {value}\r\n"
        if fault.reset_in_head:
            self.connection.sendall(head.encode()[: len(head) // 2])
            self.reset()
        else:
            self.connection.sendall(head.encode() + b"\r\n")
            if self.command != "HEAD":
                self.deliver(exchange, fault, answer, length)
        upstream.close()

    def deliver(
        self, exchange: Exchange, fault: Fault, answer: http.client.HTTPResponse, length: int
    ) -> None:
        stops = [
            at for at in (fault.reset_at, fault.close_at, fault.stall_at, fault.garble_at) if at is not None
        ]
        end = min([length, *stops])
        while exchange.sent_bytes < end and not self.proxy.closing.is_set():
            most = PIECE_BYTES if not fault.bytes_per_s else max(1, fault.bytes_per_s // 20)
            if fault.bytes_per_s:
                self.proxy.closing.wait(0.05)
            allowed = min(most, end - exchange.sent_bytes)
            if exchange.request.first_byte is not None:
                allowed = self.proxy.allowed(allowed)
            piece = bytearray(answer.read(allowed))
            if fault.flip_at is not None and 0 <= (at := fault.flip_at - exchange.sent_bytes) < len(piece):
                piece[at] ^= 1
            self.connection.sendall(piece)
            exchange.sent_bytes += len(piece)
        if exchange.sent_bytes == length and not stops:
            return
        if fault.reset_at is not None:
            self.reset()
        elif fault.garble_at is not None:
            os.write(self.connection.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        elif fault.stall_at is not None:
            self.stall()
        self.close_connection = True

    def stall(self) -> None:
        """Until the client is gone."""
        while not self.proxy.closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                return

    def reset(self) -> None:
        """Ends the connection so that the other side gets an RST."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Not shut down before, which would be a clean end.
        os.close(self.connection.detach())
