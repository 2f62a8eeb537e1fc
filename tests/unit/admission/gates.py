"""Gates and their clients in one event loop, on the loopback interface."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from serve_app.admission.admission_request import AdmissionRequest
from serve_app.admission.client import GateClient
from serve_app.admission.link import GateLink
from serve_app.admission.policy import Addressed, Admission
from serve_app.admission.protocol import Ask, Event, Join, Joined, Message, OpenRequest, Ping, Tier, Unknown
from serve_app.admission.rules import Rules
from serve_app.admission.server import GateServer
from serve_app.transport.curve import CurveAddress


def rules(**changed: Any) -> Rules:
    return Rules(**{"max_concurrent_requests": 1, "max_queued": 8, "max_wait_s": 30.0} | changed)


class Watched(Admission):
    """An `Admission` that a test can wait for."""

    def __init__(self, its_rules: Rules) -> None:
        super().__init__(its_rules)
        self.num_joins = self.num_forgotten = 0
        self._changed = asyncio.Event()

    def handle(self, ingress: bytes, message: Message, now: float) -> list[Addressed]:
        self.num_joins += isinstance(message, Join)
        self._changed.set()
        return super().handle(ingress, message, now)

    def tick(self, now: float) -> list[Addressed]:
        self._changed.set()
        return super().tick(now)

    def forget(self, ingress: bytes, now: float) -> list[Addressed]:
        self.num_forgotten += 1
        self._changed.set()
        return super().forget(ingress, now)

    @property
    def counts(self) -> tuple[int, int]:
        """Sequences that run and wait."""
        return self.num_running, self.num_waiting

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds; it is looked at after each message."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Where:
    """Says where the gate is, once for each time that a test says so."""

    def __init__(self) -> None:
        self._addresses: asyncio.Queue[CurveAddress] = asyncio.Queue()
        self.is_asked = asyncio.Event()

    def __call__(self) -> Coroutine[Any, Any, CurveAddress]:
        self.is_asked.set()
        return self._addresses.get()

    def is_at(self, address: CurveAddress) -> None:
        self.is_asked.clear()
        self._addresses.put_nowait(address)


@asynccontextmanager
async def gate_of(*replicas: str, **changed: Any) -> AsyncIterator[tuple[GateServer, Watched]]:
    admission = Watched(rules(**changed))
    server = GateServer("127.0.0.1", admission)
    server.set_replicas(replicas)
    try:
        yield server, admission
    finally:
        if not server._socket.closed:
            server.close()


@asynccontextmanager
async def client_of(
    server: GateServer | None = None, *replicas: str, **changed: Any
) -> AsyncIterator[tuple[GateClient, Where]]:
    """A client that has joined, or without a server decides alone. It knows of `replicas` by itself."""
    where = Where()
    client = GateClient(rules(**changed), where)
    client.set_replicas(replicas)
    try:
        if server:
            await joined(client, where, server)
        yield client, where
    finally:
        await closed(client)


async def joined(client: GateClient, where: Where, server: GateServer) -> None:
    admission = server._admission
    assert isinstance(admission, Watched)
    num_joins = admission.num_joins
    where.is_at(server.address)
    await admission.until(lambda: admission.num_joins > num_joins)
    assert client.is_connected


async def closed(client: GateClient) -> None:
    client.close()
    await asyncio.gather(client.task, return_exceptions=True)


class Heard(GateLink):
    """A connection to a gate that only listens."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)


class ScriptedGate:
    """A gate that says what a test tells it to."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.router_handover = True
        self._socket.curve_server = True
        self._socket.curve_secretkey = secret
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = CurveAddress(f"tcp://127.0.0.1:{port}", public)
        self._decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(list[Message])
        self._heard: deque[Message] = deque()
        self.ingress = b""

    async def hear(self, *kinds: type[Message]) -> Message:
        """The next message of one of these kinds; the others are passed over."""
        while True:
            while not self._heard:
                self.ingress, content = await self._socket.recv_multipart()
                self._heard.extend(self._decoder.decode(content))
            message = self._heard.popleft()
            if isinstance(message, kinds):
                return message

    async def join(self) -> Join:
        """Has an ingress join, and returns what it says."""
        while True:
            message = await self.hear(Join, Ping)
            if isinstance(message, Join):
                await self.say(Joined())
                return message
            await self.say(Unknown())

    async def say(self, *events: Event | bytes) -> None:
        """To the ingress that was heard last."""
        for event in events:
            content = event if isinstance(event, bytes) else msgspec.msgpack.encode(event)
            await self._socket.send_multipart([self.ingress, content])

    def close(self) -> None:
        self._context.destroy(linger=0)


@asynccontextmanager
async def scripted_gate() -> AsyncIterator[ScriptedGate]:
    gate = ScriptedGate()
    try:
        yield gate
    finally:
        gate.close()


@dataclass
class Dialogue:
    """A scripted gate, and an ingress that has joined it. By itself the ingress knows of replica `a`."""

    gate: ScriptedGate
    client: GateClient
    where: Where

    async def ask(self, key: str = "", tier: Tier = Tier.DEFAULT, num_sequences: int = 1) -> AdmissionRequest:
        """A request that the gate has heard of."""
        request = self.client.ask(key, tier, num_sequences)
        assert await self.gate.hear(Ask) == request.ask
        return request

    async def hear_join(self) -> list[OpenRequest]:
        """What the ingress says to have open, when it joins again. The gate does not answer."""
        join = await self.gate.hear(Join)
        assert isinstance(join, Join)
        return join.open
