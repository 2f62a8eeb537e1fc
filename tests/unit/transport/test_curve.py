"""Real sockets on the loopback interface: who can connect, and what the options do."""

from __future__ import annotations

import socket as plain_sockets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
import zmq.asyncio
import zmq.utils.monitor

from serve_app.transport.curve import CurveAddress, CurveSockets

MAX_BYTES = 1000
HEARTBEAT_MS = 5_000
LOOPBACKS = ["127.0.0.1", "::1"]
# What a socket's monitor says when a handshake has failed, or a peer has been disconnected.
REFUSED = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_DISCONNECTED,
}


@contextmanager
def owners(number: int) -> Iterator[list[CurveSockets]]:
    made = [CurveSockets() for _ in range(number)]
    try:
        yield made
    finally:
        for sockets in made:
            sockets.close()


def bind(
    sockets: CurveSockets, kind: int, host: str = LOOPBACKS[0]
) -> tuple[zmq.asyncio.Socket, CurveAddress]:
    return sockets.bind(
        kind,
        host,
        high_water_mark=8,
        max_message_bytes=MAX_BYTES,
        heartbeat_ms=HEARTBEAT_MS,
        is_handed_over=kind == zmq.ROUTER,
    )


@contextmanager
def monitored(socket: zmq.asyncio.Socket) -> Iterator[zmq.asyncio.Socket]:
    monitor = socket.get_monitor_socket()
    try:
        yield monitor
    finally:
        socket.disable_monitor()
        monitor.close(linger=0)


async def until(monitor: zmq.asyncio.Socket, *events: int) -> int:
    """The first of these events."""
    while True:
        event: int = (await zmq.utils.monitor.recv_monitor_message(monitor))["event"]
        if event in events:
            return event


def has(host: str) -> bool:
    """Whether this machine has the address."""
    family = plain_sockets.AF_INET6 if ":" in host else plain_sockets.AF_INET
    try:
        with plain_sockets.socket(family) as found:
            found.bind((host, 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=LOOPBACKS)
def host(request: pytest.FixtureRequest) -> str:
    address: str = request.param
    if not has(address):
        pytest.skip(f"this machine has no {address}")
    return address


# --- both patterns -------------------------------------------------------------------------------------


async def test_push_to_pull(host: str) -> None:
    with owners(2) as (server, client):
        pull, address = bind(server, zmq.PULL, host)
        push = client.connect(zmq.PUSH, address, high_water_mark=8, is_queued_unconnected=False)
        await push.send_multipart([b"header", b"body"])
        assert await pull.recv_multipart() == [b"header", b"body"]


async def test_dealer_to_router_and_back(host: str) -> None:
    with owners(2) as (server, client):
        router, address = bind(server, zmq.ROUTER, host)
        dealer = client.connect(zmq.DEALER, address, high_water_mark=0, routing_id=b"its name")
        await dealer.send(b"question")
        assert await router.recv_multipart() == [b"its name", b"question"]
        await router.send_multipart([b"its name", b"answer"])
        assert await dealer.recv() == b"answer"


def test_the_endpoint_is_one_that_can_be_connected_to(host: str) -> None:
    with owners(1) as (server,):
        _, address = bind(server, zmq.PULL, host)
        netloc, _, port = address.endpoint.removeprefix("tcp://").rpartition(":")
        with plain_sockets.create_connection((netloc.strip("[]"), int(port))):
            pass
        assert netloc == (f"[{host}]" if ":" in host else host)


def test_each_owner_has_a_key_of_its_own() -> None:
    with owners(2) as both:
        addresses = [bind(sockets, zmq.PULL)[1] for sockets in both]
        assert addresses[0].key != addresses[1].key


# --- strangers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(zmq.PULL, zmq.PUSH), (zmq.ROUTER, zmq.DEALER)], ids=["push", "dealer"])
async def test_another_key_does_not_connect(kinds: tuple[int, int]) -> None:
    with owners(2) as (server, client):
        bound, address = bind(server, kinds[0])
        other_key, _ = zmq.curve_keypair()
        stranger = client.connect(
            kinds[1], CurveAddress(address.endpoint, other_key), high_water_mark=8, max_reconnect_ms=100
        )
        with monitored(stranger) as monitor:
            stranger.send(b"anything")
            await until(monitor, *REFUSED)
        friend = client.connect(kinds[1], address, high_water_mark=8)
        await friend.send(b"from a friend")
        assert (await bound.recv_multipart())[-1] == b"from a friend"


async def test_without_encryption_nobody_connects() -> None:
    with owners(2) as (server, client):
        pull, address = bind(server, zmq.PULL)
        context = zmq.asyncio.Context()
        stranger = context.socket(zmq.PUSH)
        with monitored(stranger) as monitor:
            stranger.connect(address.endpoint)
            stranger.send(b"anything")
            await until(monitor, *REFUSED)
        friend = client.connect(zmq.PUSH, address, high_water_mark=8)
        await friend.send(b"from a friend")
        assert await pull.recv() == b"from a friend"
        context.destroy(linger=0)


# --- options -------------------------------------------------------------------------------------------


async def test_a_message_over_the_limit_ends_its_connection() -> None:
    with owners(3) as (server, client, other):
        pull, address = bind(server, zmq.PULL)
        push = client.connect(zmq.PUSH, address, high_water_mark=8)
        await push.send(bytes(MAX_BYTES // 2))
        assert len(await pull.recv()) == MAX_BYTES // 2
        with monitored(push) as monitor:
            await push.send(bytes(2 * MAX_BYTES))
            await until(monitor, zmq.EVENT_DISCONNECTED)
        await other.connect(zmq.PUSH, address, high_water_mark=8).send(b"small")
        assert await pull.recv() == b"small"


async def test_who_comes_again_under_its_name_takes_over() -> None:
    with owners(3) as (server, first, second):
        router, address = bind(server, zmq.ROUTER)
        for number, client in enumerate((first, second)):
            dealer = client.connect(zmq.DEALER, address, high_water_mark=0, routing_id=b"its name")
            await dealer.send(b"%d" % number)
            assert await router.recv_multipart() == [b"its name", b"%d" % number]
        await router.send_multipart([b"its name", b"answer"])
        assert await dealer.recv() == b"answer"


def test_what_is_queued_is_bounded_by_the_high_water_mark() -> None:
    nobody = CurveAddress("tcp://127.0.0.1:1", zmq.curve_keypair()[0])
    with owners(1) as (client,):
        push: zmq.Socket[bytes] = zmq.Socket.shadow(
            client.connect(zmq.PUSH, nobody, high_water_mark=3).underlying
        )
        for _ in range(3):
            push.send(b"", zmq.NOBLOCK)
        with pytest.raises(zmq.Again):
            push.send(b"", zmq.NOBLOCK)
        eager = client.connect(zmq.PUSH, nobody, high_water_mark=3, is_queued_unconnected=False)
        with pytest.raises(zmq.Again):
            zmq.Socket.shadow(eager.underlying).send(b"", zmq.NOBLOCK)


def test_what_is_left_out_is_as_zeromq_has_it() -> None:
    nobody = CurveAddress("tcp://127.0.0.1:1", zmq.curve_keypair()[0])
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain, owners(1) as (client,):
        socket = client.connect(zmq.DEALER, nobody, high_water_mark=0)
        for option in (zmq.HEARTBEAT_IVL, zmq.RECONNECT_IVL_MAX, zmq.ROUTING_ID, zmq.MAXMSGSIZE):
            assert socket.getsockopt(option) == plain.getsockopt(option)
        assert socket.linger == 0
        given = client.connect(
            zmq.DEALER, nobody, high_water_mark=5, heartbeat_ms=70, max_reconnect_ms=90, routing_id=b"name"
        )
        options = (zmq.SNDHWM, zmq.RCVHWM, zmq.HEARTBEAT_IVL, zmq.RECONNECT_IVL_MAX, zmq.ROUTING_ID)
        assert [given.getsockopt(option) for option in options] == [5, 5, 70, 90, b"name"]


# --- what fails ----------------------------------------------------------------------------------------


def test_a_pyzmq_without_encryption_is_refused_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: capability != "curve")
    with pytest.raises(RuntimeError, match=r"no CURVE.*install pyzmq from its wheels"):
        CurveSockets()


def test_an_address_that_is_not_of_this_machine() -> None:
    with owners(1) as (server,), pytest.raises(zmq.ZMQError, match="Cannot assign requested address"):
        bind(server, zmq.PULL, "192.0.2.1")


def test_closing_closes_every_socket() -> None:
    sockets = CurveSockets()
    pull, address = bind(sockets, zmq.PULL)
    push = sockets.connect(zmq.PUSH, address, high_water_mark=8)
    sockets.close()
    assert pull.closed
    assert push.closed
    sockets.close()
