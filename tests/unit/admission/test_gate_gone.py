"""Gates and ingresses that go and come again, over real sockets on the loopback interface."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from serve_app.admission import link, policy
from serve_app.admission import server as server_module
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Join,
    Joined,
    Lost,
    Move,
    Ping,
    Reason,
    Refused,
    Release,
    Tier,
    Unknown,
)
from serve_app.errors import KeyLimitError, OverloadedError
from tests.network import Network
from tests.services import ROOT
from tests.unit.admission.gates import Dialogue, client_of, gate_of, joined, scripted_gate
from tests.waiting import pass_until

# How long an ingress has to come back: long for a busy machine, too.
QUICK_RECONNECT_S = 1.0
DEFAULT = Tier.DEFAULT
TOLD = (Ask, Move, Release, Close, Lost, Join)
KINDS = (*TOLD, Ping)


# --- a gate that goes ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_silence")
async def test_without_its_gate_an_ingress_decides_alone_and_running_requests_keep_their_slots() -> None:
    async with gate_of("a") as (server, _), client_of(server, "a") as (client, where):
        running, waiting = client.ask("", DEFAULT, 1), client.ask("", DEFAULT, 1)
        await running.admitted()
        await waiting.admitted()
        first, second = running.take_slot(), waiting.take_slot()
        where.is_asked.clear()
        server.close()
        await where.is_asked.wait()
        assert not client.is_connected
        assert (first.replica, second.replica) == ("a", None)
        third = client.ask("", DEFAULT, 1)
        await third.admitted()
        assert third.take_slot().replica is None
        first.release(10)
        assert await second.granted() == "a"


@pytest.mark.usefixtures("quick_silence")
async def test_who_had_asked_a_gate_that_goes_is_answered(dialogue: Dialogue) -> None:
    request = await dialogue.ask()
    await request.admitted()  # by the ingress itself, after the gate's silence
    assert request.take_slot().replica == "a"


@pytest.mark.usefixtures("quick_silence")
async def test_a_new_gate_learns_everything() -> None:
    async with (
        gate_of("a", max_requests_per_key=2) as (old, _),
        gate_of("a", max_requests_per_key=2) as (new, admission),
        client_of(old, "a", max_requests_per_key=2) as (client, where),
    ):
        running, waiting = client.ask("k", DEFAULT, 1), client.ask("k", Tier.PRIORITY, 1)
        await running.admitted()
        await waiting.admitted()
        first, second = running.take_slot(), waiting.take_slot()
        where.is_asked.clear()
        old.close()
        await where.is_asked.wait()
        await joined(client, where, new)
        await admission.until(lambda: admission.counts == (1, 1))
        with pytest.raises(KeyLimitError):
            await client.ask("k", DEFAULT, 1).admitted()
        first.release(10)
        assert await second.granted() == "a"
        second.release(10)
        waiting.close()
        running.close()
        await admission.until(lambda: admission.counts == (0, 0))


@pytest.mark.usefixtures("quick_silence")
@pytest.mark.parametrize("has_joined", [True, False])
async def test_a_gate_that_never_answers_does_not_lift_the_limits(has_joined: bool) -> None:
    """Serve says where the gate is, and nobody is reached there, or nobody any more."""
    async with scripted_gate() as deaf, client_of(None, "a", max_queued=1) as (client, where):
        where.is_at(deaf.address)
        if has_joined:
            await deaf.join()
        else:
            await deaf.hear(Ping)
        assert client.is_connected == has_joined
        requests = [client.ask("", DEFAULT, 1) for _ in range(6)]
        answers = await asyncio.gather(*(request.admitted() for request in requests), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, OverloadedError)]
        assert len(refused) == 4  # one runs and one waits


@pytest.mark.usefixtures("quick_silence")
async def test_who_reconnects_to_the_same_gate_has_its_slots_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate_of("a", "b") as (server, admission), client_of(server, "a") as (client, where):
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        where.is_asked.clear()
        monkeypatch.setattr(link, "PING_S", 3600.0)
        # The ingress was held up: it took the gate for dead, which has noticed nothing.
        assert client._link
        client._link._socket.disconnect(server.address.endpoint)
        await where.is_asked.wait()
        await joined(client, where, server)
        assert admission.counts == (1, 0)


async def test_a_client_that_is_closed_has_nothing_more_to_do() -> None:
    async with gate_of("a") as (server, _):
        for gate in (server, None):
            async with client_of(gate, "a", max_wait_s=3600) as (client, _):
                for _ in range(2):
                    await client.ask("", DEFAULT, 1).admitted()
                assert (client._timer._handle is None) == client.is_connected
            assert client.task.done()
            assert client._timer._handle is None


@pytest.mark.usefixtures("quick_pings")
async def test_a_gate_is_told_nothing_before_it_has_said_something() -> None:
    """Nobody may be there. Until it is known, the ingress answers."""
    async with scripted_gate() as gate, client_of(None, "a") as (client, where):
        where.is_at(gate.address)
        assert await gate.hear(*KINDS) == Ping(0)
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        assert not client.is_connected
        for _ in range(3):
            assert await gate.hear(*KINDS) == Ping(0)
        await gate.say(Unknown())
        join = await gate.hear(Join, Ask)
        assert isinstance(join, Join)
        assert [known.sequences for known in join.open] == [{0: "a"}]
        assert client.is_connected


@pytest.mark.usefixtures("quick_silence")
async def test_who_comes_again_has_the_same_name() -> None:
    async with scripted_gate() as gate, client_of(None, "a") as (_, where):
        names = set()
        for _ in range(2):
            where.is_at(gate.address)
            await gate.join()
            names.add(gate.ingress)
            where.is_asked.clear()
            await where.is_asked.wait()  # it is silent again
        assert len(names) == 1
        async with client_of(None, "a") as (_, elsewhere):
            elsewhere.is_at(gate.address)
            await gate.join()
            assert gate.ingress not in names


@pytest.mark.usefixtures("quick_pings")
async def test_who_was_not_answered_is_asked_for_when_its_ingress_joins_again(
    dialogue: Dialogue,
) -> None:
    gate = dialogue.gate
    request = await dialogue.ask("k", Tier.FLEX, 2)
    await gate.say(Unknown())
    assert await gate.hear(*TOLD) == Join([])
    assert await gate.hear(*TOLD) == request.ask
    # To the first time that it was asked.
    await gate.say(Refused(0, Reason.QUEUE_FULL, 1.0, None), Joined())
    await gate.say(Admitted(0, {0: "a", 1: "b"}, None))
    await request.admitted()
    assert [request.take_slot().replica for _ in range(2)] == ["a", "b"]


async def test_who_was_not_answered_is_answered_by_a_gate_within_its_limits() -> None:
    """Asked for again each time that the ingress joins, it counts once."""
    async with (
        gate_of("a", max_requests_per_key=2) as (server, admission),
        client_of(server) as (client, _),
    ):
        running = client.ask("k", DEFAULT, 1)
        await running.admitted()
        asking = [client.ask("k", DEFAULT, 1) for _ in range(4)]
        assert client._link
        for _ in range(2):
            client._join(client._link)
        answers = await asyncio.gather(*(request.admitted() for request in asking), return_exceptions=True)
        assert answers[0] is None
        assert [type(answer) for answer in answers[1:]] == [KeyLimitError] * 3
        assert running.take_slot().replica == "a"
        assert (admission.num_joins, admission.counts) == (3, (1, 1))


# --- an ingress that goes -----------------------------------------------------------------------------


async def test_an_ingress_that_falls_silent_is_forgotten_and_joins_when_it_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy, "SILENCE_S", 0.2)
    monkeypatch.setattr(link, "PING_S", 3600.0)
    monkeypatch.setattr(link, "SILENCE_S", 3600.0)

    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        grant = request.take_slot()
        assert await grant.granted() == "a"
        await admission.until(lambda: admission.counts == (0, 0))  # nothing was released
        num_joins = admission.num_joins
        client.lose("z")
        await admission.until(lambda: admission.num_joins > num_joins)
        assert admission.counts == (1, 0)
        assert grant.replica == "a"


@pytest.mark.usefixtures("quick_pings")
async def test_an_ingress_that_pings_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "SILENCE_S", 1.0)

    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        [known] = admission._ingresses.values()
        first = known.heard_at
        await admission.until(lambda: known.heard_at > first + 1.5)
        assert admission.num_joins == 1
        assert admission.counts == (1, 0)


@pytest.fixture
def quick_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence tells nothing in these tests: nobody pings."""
    monkeypatch.setattr(server_module, "RECONNECT_S", QUICK_RECONNECT_S)
    monkeypatch.setattr(policy, "SILENCE_S", 3600.0)
    monkeypatch.setattr(link, "PING_S", 3600.0)
    monkeypatch.setattr(link, "SILENCE_S", 3600.0)


@pytest.mark.usefixtures("quick_reconnect")
async def test_the_slots_of_an_ingress_that_has_gone_are_free_and_others_notice_nothing() -> None:
    async with (
        gate_of("a", max_concurrent_requests=2) as (server, admission),
        client_of(server) as (stays, _),
    ):
        kept = stays.ask("", DEFAULT, 1)
        await kept.admitted()
        async with client_of(server) as (goes, _):
            lost = goes.ask("", DEFAULT, 3)
            await lost.admitted()
            waiting = stays.ask("", DEFAULT, 1)
            await waiting.admitted()
            slot = waiting.take_slot()
            assert admission.counts == (2, 3)
        assert await slot.granted() == "a"
        assert admission.counts == (2, 0)
        # Whoever lives was asked for a sign, and has not taken it for a loss.
        slot.release(1)
        await admission.until(lambda: admission.counts == (1, 0))
        assert (admission.num_joins, admission.num_forgotten) == (2, 1)


@pytest.mark.usefixtures("quick_reconnect")
async def test_an_ingress_that_is_cut_off_for_a_moment_keeps_its_slots_and_for_longer_joins_again() -> None:
    async with (
        gate_of("a") as (server, admission),
        Network.to(server.address) as (network, through),
        client_of() as (client, where),
    ):
        where.is_at(through)
        await admission.until(lambda: admission.num_joins == 1)
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        grant = request.take_slot()
        assert await grant.granted() == "a"
        network.cut()
        await asyncio.sleep(QUICK_RECONNECT_S / 10)
        network.mend()
        await asyncio.sleep(2 * QUICK_RECONNECT_S)
        assert (admission.counts, admission.num_joins) == ((1, 0), 1)
        network.cut()
        await pass_until(lambda: admission.counts == (0, 0))
        network.mend()
        while admission.num_joins == 1:
            client.lose("z")  # lost, as long as there is no connection
            await asyncio.sleep(0.05)
        assert admission.counts == (1, 0)
        assert grant.replica == "a"


BUSY = """
import asyncio, sys, time
import msgspec
from serve_app.admission.protocol import Tier
from serve_app.transport.curve import CurveAddress
from tests.unit.admission.gates import Where, rules
from serve_app.admission.client import GateClient

async def main():
    where = Where()
    where.is_at(msgspec.json.decode(sys.argv[1], type=CurveAddress))
    client = GateClient(rules(), where)
    while not client.is_connected:
        await asyncio.sleep(0.01)
    await client.ask("", Tier.DEFAULT, 1).admitted()
    time.sleep(600)

asyncio.run(main())
"""


@contextmanager
def process_of(code: str, *arguments: str) -> Iterator[None]:
    """A process that is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("quick_reconnect")
async def test_an_ingress_whose_event_loop_is_busy_is_not_taken_for_gone_and_one_that_is_killed_is() -> None:
    async with gate_of("a") as (server, admission):
        address = msgspec.json.encode(server.address).decode()
        with process_of(BUSY, address):
            await admission.until(lambda: admission.counts == (1, 0))
            # Another one goes, and it is looked who is there.
            async with client_of(server):
                pass
            await admission.until(lambda: admission.num_forgotten == 1)
            assert admission.counts == (1, 0)
        await admission.until(lambda: admission.num_forgotten == 2)
        assert admission.counts == (0, 0)
