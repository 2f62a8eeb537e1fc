"""Real sockets on the loopback interface."""

import operator
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import zmq
import zmq.asyncio
import zmq.utils.monitor

from serve_app.errors import IngressBlockedError
from serve_app.transport import sockets as frame_sockets
from serve_app.transport.curve import CurveAddress
from serve_app.transport.frames import FrameHeader, encode_header
from serve_app.transport.sockets import FrameReceiver, FrameSender

Tokens = list[int]
Received = list[tuple[int, int, Tokens]]


def encode(outputs: list[Tokens]) -> list[bytes]:
    return [msgspec.msgpack.encode(outputs)]


def new_sender() -> FrameSender[Tokens]:
    return FrameSender(encode, lambda first, second: first + second)


@asynccontextmanager
async def both_ends() -> AsyncIterator[tuple[FrameReceiver, FrameSender[Tokens]]]:
    receiver, sender = FrameReceiver("127.0.0.1"), new_sender()
    try:
        yield receiver, sender
    finally:
        sender.close()
        receiver.close()


async def receive(receiver: FrameReceiver) -> Received:
    received = []
    for header, [content] in await receiver.receive():
        outputs = msgspec.msgpack.decode(content, type=list[Tokens])
        received += list(zip(header.sequences, header.positions, outputs, strict=True))
    return received


async def receive_tokens(receiver: FrameReceiver, num_tokens: int) -> Received:
    received: Received = []
    while sum(len(tokens) for _, _, tokens in received) < num_tokens:
        received += await receive(receiver)
    return received


async def test_frames_arrive_in_order() -> None:
    async with both_ends() as (receiver, sender):
        link = sender.open(receiver.address)
        for step in range(50):
            link.add(1, step, [step], 1)
            link.add(2, step * 2, [step, step], 2)
            sender.flush()
        received = await receive_tokens(receiver, 150)
        for sequence, width in ((1, 1), (2, 2)):
            parts = [(position, tokens) for number, position, tokens in received if number == sequence]
            assert [token for _, tokens in parts for token in tokens] == [
                step for step in range(50) for _ in range(width)
            ]
            expected = 0
            for position, tokens in parts:
                assert position == expected
                expected += len(tokens)


async def test_one_frame_for_all_requests_of_an_ingress() -> None:
    async with both_ends() as (receiver, sender):
        links = [sender.open(receiver.address) for _ in range(3)]
        assert links[0] is links[1] is links[2]
        for sequence, link in enumerate(links):
            link.add(sequence, 0, [sequence], 1)
        sender.flush()
        [(header, _)] = await receiver.receive()
        assert header.sequences == [0, 1, 2]


async def test_an_ingress_gets_its_own_tokens_only() -> None:
    async with both_ends() as (receiver, sender):
        other = FrameReceiver("127.0.0.1")
        sender.open(receiver.address).add(1, 0, [1], 1)
        sender.open(other.address).add(2, 0, [2], 1)
        sender.flush()
        assert await receive(receiver) == [(1, 0, [1])]
        assert await receive(other) == [(2, 0, [2])]
        other.close()


async def test_an_ingress_that_does_not_read_holds_up_nobody_and_then_gets_all_in_few_frames() -> None:
    steps, padding = 2000, bytes(50_000)  # more than the sockets' buffers hold

    async def take(receiver: FrameReceiver, num_tokens: int) -> tuple[Tokens, int]:
        tokens: Tokens = []
        num_frames = 0
        while len(tokens) < num_tokens:
            for _, parts in await receiver.receive():
                tokens += msgspec.msgpack.decode(parts[0], type=list[Tokens])[0]
                num_frames += 1
        return tokens, num_frames

    receiver, other = FrameReceiver("127.0.0.1"), FrameReceiver("127.0.0.1")
    sender: FrameSender[Tokens] = FrameSender(lambda outputs: [*encode(outputs), padding], operator.add)
    busy, free = sender.open(receiver.address), sender.open(other.address)
    for step in range(steps):
        busy.add(1, step, [step], 1)
        free.add(2, step, [step], 1)
        sender.flush()
        if step % 10 == 9:
            await take(other, 10)
    tokens, num_frames = await take(receiver, steps)
    assert tokens == list(range(steps))
    assert num_frames < steps / 2
    for end in (receiver, other, sender):
        end.close()


async def test_what_waits_for_an_ingress_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sockets, "MAX_WAITING_TOKENS", 1000)

    sender = new_sender()
    public, _ = zmq.curve_keypair()
    link = sender.open(CurveAddress("tcp://127.0.0.1:1", public))  # nobody is there
    for step in range(101):
        link.add(1, step * 10, [0] * 10, 10)
    with pytest.raises(IngressBlockedError, match="has not read"):
        link.add(1, 1010, [0], 1)
    sender.close()


async def test_frames_wait_for_an_ingress_that_is_not_there_yet() -> None:
    async with both_ends() as (receiver, sender):
        link = sender.open(receiver.address)
        link.add(1, 0, [1], 1)
        sender.flush()  # before the connection stands
        assert await receive(receiver) == [(1, 0, [1])]


# --- strangers -----------------------------------------------------------------------------------------


async def is_refused(receiver: FrameReceiver, stranger: zmq.asyncio.Socket, port: str) -> None:
    """Whatever `stranger` sends, nothing but an engine's frame arrives."""
    sender = new_sender()
    monitor = stranger.get_monitor_socket()
    try:
        stranger.connect(port)
        stranger.send(encode_header(FrameHeader([1], [0])))
        failed = {
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_DISCONNECTED,
        }
        while (await zmq.utils.monitor.recv_monitor_message(monitor))["event"] not in failed:
            pass
        sender.open(receiver.address).add(7, 0, [7], 1)
        sender.flush()
        assert await receive(receiver) == [(7, 0, [7])]
    finally:
        stranger.disable_monitor()
        monitor.close(linger=0)
        stranger.close(linger=0)
        sender.close()


@pytest.mark.parametrize("knows", ["nothing", "another key"])
async def test_strangers_are_refused(knows: str) -> None:
    receiver = FrameReceiver("127.0.0.1")
    context = zmq.asyncio.Context()
    stranger = context.socket(zmq.PUSH)
    if knows == "another key":
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey, _ = zmq.curve_keypair()
    await is_refused(receiver, stranger, receiver.address.endpoint)
    context.destroy(linger=0)
    receiver.close()


async def test_garbage_from_an_engine_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with both_ends() as (receiver, sender):
        link = sender.open(receiver.address)
        link._socket.send_multipart([b"\xc1", b"garbage"])
        link.add(1, 0, [1], 1)
        sender.flush()
        assert await receive(receiver) == [(1, 0, [1])]
    assert "do all replicas run the same version?" in caplog.text


async def test_keys_are_new_at_each_start() -> None:
    receivers = [FrameReceiver("127.0.0.1") for _ in range(2)]
    assert len({receiver.address.key for receiver in receivers}) == 2
    for receiver in receivers:
        receiver.close()


# --- links ---------------------------------------------------------------------------------------------


async def test_idle_links_are_kept_and_the_oldest_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_sockets, "MAX_IDLE_LINKS", 2)

    sender = new_sender()
    key, _ = zmq.curve_keypair()
    addresses = [CurveAddress(f"tcp://127.0.0.1:{port}", key) for port in range(1, 5)]
    links = [sender.open(address) for address in addresses]
    for link in links[1:]:
        sender.release(link)
    assert list(sender._links) == [addresses[0], *addresses[2:]]  # the first has a request
    assert sender.open(addresses[2]) is links[2]
    assert sender.open(addresses[1]) is not links[1]
    assert links[1]._socket.closed
    sender.close()
