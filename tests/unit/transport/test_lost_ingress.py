"""An ingress that goes, over real sockets: what an engine does with its sequences."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import msgspec
import pytest

from serve_app.errors import IngressLostError
from serve_app.transport import connections, sockets
from serve_app.transport.curve import CurveAddress
from serve_app.transport.sockets import FrameReceiver, FrameSender
from tests.examples import num_examples
from tests.network import Network
from tests.waiting import pass_until

Tokens = list[int]
T = TypeVar("T")
# How long an ingress has to come back in these tests: long for a busy machine, too.
QUICK_RECONNECT_S = 1.0
STEP_S = 0.01

INGRESS = """
import asyncio, sys
import msgspec
from serve_app.transport.sockets import FrameReceiver

async def main():
    receiver = FrameReceiver("127.0.0.1")
    sys.stdout.buffer.write(msgspec.json.encode(receiver.address) + b"\\n")
    sys.stdout.flush()
    while True:
        for header, parts in await receiver.receive():
            print(header.positions[-1], flush=True)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def quick_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", QUICK_RECONNECT_S)


class Sequence:
    """A sequence of an engine: a token a step, until it ends or is ended."""

    def __init__(self, sender: FrameSender[Tokens], address: CurveAddress, number: int) -> None:
        self._sender, self._address, self._number = sender, address, number
        self.num_tokens = 0
        self.is_enough = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> int:
        async with self._sender.link(self._address) as link:
            while not self.is_enough.is_set():
                link.add(self._number, self.num_tokens, [self.num_tokens], 1)
                self.num_tokens += 1
                self._sender.flush()
                await asyncio.sleep(STEP_S)
            return self.num_tokens

    async def end(self) -> int:
        """Its length."""
        self.is_enough.set()
        return await self.task


@asynccontextmanager
async def engine() -> AsyncIterator[FrameSender[Tokens]]:
    sender: FrameSender[Tokens] = FrameSender(
        lambda outputs: [msgspec.msgpack.encode(outputs)], lambda first, second: first + second
    )
    try:
        yield sender
    finally:
        sender.close()


@contextmanager
def ingress_process() -> Iterator[tuple[subprocess.Popen[bytes], CurveAddress]]:
    """An ingress in a process of its own, which prints the position of each frame."""
    process = subprocess.Popen([sys.executable, "-c", INGRESS], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield process, msgspec.json.decode(process.stdout.readline(), type=CurveAddress)
    finally:
        process.kill()
        process.communicate()


async def read_until(process: subprocess.Popen[bytes], position: int) -> None:
    """Until the ingress has had a frame that begins at `position` or later."""
    assert process.stdout
    while int(await asyncio.to_thread(process.stdout.readline)) < position:
        pass


async def arrived(receiver: FrameReceiver, sequence: int) -> AsyncIterator[tuple[int, Tokens]]:
    """Its tokens, with their positions."""
    while True:
        for header, [content] in await receiver.receive():
            outputs = msgspec.msgpack.decode(content, type=list[Tokens])
            for number, position, tokens in zip(header.sequences, header.positions, outputs, strict=True):
                if number == sequence:
                    yield position, tokens


async def expect_tokens(receiver: FrameReceiver, sequence: int, num_tokens: int) -> None:
    """So many come, from wherever."""
    async for _, tokens in arrived(receiver, sequence):
        num_tokens -= len(tokens)
        if num_tokens <= 0:
            return


async def test_sequences_of_an_ingress_that_has_closed_end_and_others_go_on() -> None:
    async with engine() as sender:
        gone, stays = FrameReceiver("127.0.0.1"), FrameReceiver("127.0.0.1")
        ended = [Sequence(sender, gone.address, number) for number in range(3)]
        other = Sequence(sender, stays.address, 7)
        await expect_tokens(gone, 2, 5)
        gone.close()
        for sequence in ended:
            with pytest.raises(IngressLostError, match="has been gone"):
                await sequence.task
        had = other.num_tokens
        await expect_tokens(stays, 7, had + 5)
        assert await other.end() > had
        stays.close()


async def test_sequences_of_a_killed_process_end() -> None:
    with ingress_process() as (process, address):
        async with engine() as sender:
            sequence = Sequence(sender, address, 1)
            await read_until(process, 10)
            process.kill()
            with pytest.raises(IngressLostError):
                await sequence.task
            assert not sender._links


async def test_a_stopped_process_keeps_its_sequences_until_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection stands: only heartbeats tell. A pause that is shorter than that costs nothing."""
    with ingress_process() as (process, address):
        async with engine() as sender:
            sequence = Sequence(sender, address, 1)
            await read_until(process, 10)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3 * QUICK_RECONNECT_S)
            assert not sequence.task.done()
            process.send_signal(signal.SIGCONT)
            await read_until(process, sequence.num_tokens)
            assert await sequence.end() > 10

    monkeypatch.setattr(sockets, "HEARTBEAT_MS", 200)
    monkeypatch.setattr(sockets, "HEARTBEAT_TIMEOUT_MS", 300)
    with ingress_process() as (process, address):
        async with engine() as sender:
            sequence = Sequence(sender, address, 1)
            await read_until(process, 10)
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(IngressLostError):
                await sequence.task


async def test_an_ingress_that_was_never_there_is_lost_too() -> None:
    async with engine() as sender:
        receiver = FrameReceiver("127.0.0.1")
        receiver.close()
        with pytest.raises(IngressLostError):
            await Sequence(sender, receiver.address, 1).task


async def test_a_cut_that_is_short_ends_nothing_and_a_long_one_everything() -> None:
    receiver = FrameReceiver("127.0.0.1")
    async with engine() as sender, Network.to(receiver.address) as (network, address):
        sequence = Sequence(sender, address, 1)
        await expect_tokens(receiver, 1, 5)
        for _ in range(2):
            network.cut()
            await asyncio.sleep(QUICK_RECONNECT_S / 4)
            network.mend()
            await expect_tokens(receiver, 1, 20)
        network.cut()
        with pytest.raises(IngressLostError):
            await sequence.task
        # It lives after all: what comes now gets a connection of its own.
        network.mend()
        late = Sequence(sender, address, 2)
        await expect_tokens(receiver, 2, 5)
        assert await late.end() >= 5
    receiver.close()


@contextmanager
def network_elsewhere(address: CurveAddress) -> Iterator[tuple[Callable[[float], None], CurveAddress]]:
    """A network in a thread of its own. Yields what has it away for some seconds, from now on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def be_away(network: Network, seconds: float) -> None:
        network.cut()
        asyncio.get_running_loop().call_later(seconds, network.mend)

    context = Network.to(address)
    network, through = run(context.__aenter__())
    try:
        yield lambda seconds: run(be_away(network, seconds)), through
    finally:
        run(context.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_an_engine_that_was_busy_while_the_network_was_away_ends_nothing() -> None:
    receiver = FrameReceiver("127.0.0.1")
    with network_elsewhere(receiver.address) as (be_away, address):
        async with engine() as sender:
            sequence = Sequence(sender, address, 1)
            await expect_tokens(receiver, 1, 5)
            be_away(QUICK_RECONNECT_S / 4)
            [link] = sender._links.values()
            await pass_until(lambda: not link._timer._is_up)
            # Now its time is running, and the event loop hears of nothing until it is over.
            hold_up(2 * QUICK_RECONNECT_S)
            await expect_tokens(receiver, 1, 5)
            assert not sequence.task.done()
            await sequence.end()
    receiver.close()


def hold_up(seconds: float) -> None:
    time.sleep(seconds)


async def test_cancelling_a_sequence_is_not_the_loss_of_its_ingress() -> None:
    async with engine() as sender:
        receiver = FrameReceiver("127.0.0.1")
        sequence = Sequence(sender, receiver.address, 1)
        await expect_tokens(receiver, 1, 5)
        sequence.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sequence.task
        [link] = sender._links.values()
        assert link.num_sequences == 0
        receiver.close()


@pytest.mark.slow
async def test_whatever_the_order_of_what_happens() -> None:
    """Ingresses come and go while sequences begin, end and are cancelled: each ends as its ingress has."""
    for seed in range(num_examples(5)):
        rng = random.Random(seed)
        async with engine() as sender:
            receivers = [FrameReceiver("127.0.0.1") for _ in range(4)]
            living = set(range(len(receivers)))
            open_sequences: list[tuple[int, Sequence]] = []
            cancelled: list[Sequence] = []
            readers = [asyncio.create_task(expect_tokens(one, 0, 1 << 30)) for one in receivers]
            for _ in range(30):
                match rng.choice(["begin", "begin", "end", "cancel", "close", "pause"]):
                    case "begin":
                        at = rng.randrange(len(receivers))
                        open_sequences.append((at, Sequence(sender, receivers[at].address, 0)))
                    case "end" if open_sequences:
                        at, sequence = open_sequences.pop(rng.randrange(len(open_sequences)))
                        sequence.is_enough.set()
                        await asyncio.wait([sequence.task])
                        if at in living:
                            assert sequence.task.exception() is None
                    case "cancel" if open_sequences:
                        _, sequence = open_sequences.pop(rng.randrange(len(open_sequences)))
                        sequence.task.cancel()
                        cancelled.append(sequence)
                    case "close" if len(living) > 1:
                        at = rng.choice(sorted(living))
                        living.discard(at)
                        readers[at].cancel()
                        await asyncio.wait([readers[at]])
                        receivers[at].close()
                    case _:
                        await asyncio.sleep(rng.random() / 10)
            for at, sequence in open_sequences:
                if at in living:
                    assert await sequence.end() >= 0
                else:
                    with pytest.raises(IngressLostError):
                        await sequence.task
            await asyncio.gather(*(one.task for one in cancelled), return_exceptions=True)
            assert all(link.num_sequences == 0 for link in sender._links.values())
            assert {link._socket.closed for link in sender._links.values()} <= {False}
            for at in living:
                readers[at].cancel()
                await asyncio.wait([readers[at]])
                receivers[at].close()
