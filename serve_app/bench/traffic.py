"""A worker's requests in one event loop: sent when due, their answers kept unread."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from serve_app.bench.connection import Connection
from serve_app.bench.load import Load
from serve_app.bench.prompts import body
from serve_app.bench.request_record import REFUSED, TIMEOUT, Raw
from serve_app.bench.spool import Spool
from serve_app.bench.target import Target

CONNECT_TIMEOUT_S = 10.0
# Servers close connections that are idle, uvicorn after 5 s; one that may be just about to close is not used.
MAX_IDLE_NS = 2_000_000_000
# What a closed loop waits before it asks a service again that takes no connections.
REFUSED_PAUSE_S = 0.1


class Traffic:
    """Sends requests of one round and counts them. `numbers` are those of the round's requests that it sends.

    `on_end` is called after each request, when its answer has been kept.
    """

    def __init__(
        self,
        load: Load,
        model: str,
        target: Target,
        seed: int,
        numbers: Iterable[int],
        on_end: Callable[[], None],
    ) -> None:
        self.spool = Spool()
        self.num_open = self.num_done = self.num_failed = 0
        self._load, self._model, self._target, self._seed = load, model, target, seed
        self._numbers = iter(numbers)
        self._on_end = on_end
        self._head = target.head(load)
        self._tls: ssl.SSLContext | None = target.tls
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        # Made ahead, so that no time passes between a request's turn and its first byte.
        self._ready: deque[tuple[str, bytes]] = deque()

    async def prepare(self, connections: int, requests: int) -> None:
        """Open connections and make the first requests; one that cannot be opened fails when it is used."""
        for _ in range(requests):
            self._make_one()
        opened = await asyncio.gather(*(self._connect() for _ in range(connections)), return_exceptions=True)
        self._idle += [connection for connection in opened if isinstance(connection, Connection)]
        now_ns = time.monotonic_ns()
        for connection in self._idle:
            connection.idle_since_ns = now_ns

    def send(self, due_ns: int) -> bool:
        """Send the next request, which was due at `due_ns`; False when there is none left."""
        if not self._ready:
            self._make_one()
        if not self._ready:
            return False
        request_id, request = self._ready.popleft()
        raw = Raw(request_id, due_ns)
        self.num_open += 1
        if connection := self._idle_connection():
            connection.send(request, raw, self._load.timeout_s, self._ended)
        else:
            task = self._loop.create_task(self._connect_and_send(request, raw))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._loop.call_soon(self._make_one)
        return True

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _make_one(self) -> None:
        number = next(self._numbers, None)
        if number is not None:
            content = json.dumps(body(self._load, self._model, self._seed, number)).encode()
            request_id = f"bench-{self._seed}-{number}"
            head = b"%b%d\r\nX-Request-Id: %b\r\n\r\n" % (self._head, len(content), request_id.encode())
            self._ready.append((request_id, head + content))

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and time.monotonic_ns() - connection.idle_since_ns < MAX_IDLE_NS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await self._loop.create_connection(
                Connection, self._target.host, self._target.port, ssl=self._tls
            )
        return connection

    async def _connect_and_send(self, request: bytes, raw: Raw) -> None:
        raw.sent_ns = time.monotonic_ns()
        try:
            connection = await self._connect()
        except (OSError, TimeoutError) as error:
            raw.end_ns = time.monotonic_ns()
            raw.failure = TIMEOUT if isinstance(error, TimeoutError) else REFUSED
            raw.message = str(error) or f"no connection after {CONNECT_TIMEOUT_S:g} s"
            await asyncio.sleep(REFUSED_PAUSE_S)
            self._finish(raw)
            return
        connection.send(request, raw, self._load.timeout_s, self._ended)

    def _ended(self, connection: Connection, raw: Raw) -> None:
        if connection.is_reusable:
            self._idle.append(connection)
        self._finish(raw)

    def _finish(self, raw: Raw) -> None:
        self.num_open -= 1
        self.num_done += 1
        self.num_failed += raw.failure is not None or raw.status != 200
        # First the next request, then the books.
        self._loop.call_soon(self.spool.add, raw)
        self._on_end()


def every(begin: int, step: int, end: int | None) -> Iterator[int]:
    """Counts from `begin` in steps, without an end where there is none."""
    number = begin
    while end is None or number < end:
        yield number
        number += step
