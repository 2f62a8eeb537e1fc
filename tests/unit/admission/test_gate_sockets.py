"""Gate and ingresses over real sockets on the loopback interface."""

import asyncio
from contextlib import suppress

import pytest
import zmq
import zmq.asyncio
import zmq.utils.monitor

from serve_app.admission import link, policy
from serve_app.admission.client import MESSAGES
from serve_app.admission.policy import NO_ENGINE_RETRY_S
from serve_app.admission.protocol import (
    Admitted,
    Ask,
    Close,
    Event,
    Granted,
    Join,
    Joined,
    Lost,
    More,
    Ping,
    Pong,
    Reason,
    Refused,
    Release,
    Tier,
    Unknown,
)
from serve_app.errors import EngineUnavailableError, KeyLimitError, OverloadedError
from tests.unit.admission.gates import client_of, gate_of, joined, scripted_gate

DEFAULT = Tier.DEFAULT
TOLD = (Ask, More, Release, Close, Lost, Join)
KINDS = (*TOLD, Ping)
# How soon a gate's silence is noticed in tests that wait for that: not so soon that a busy machine is silent.
QUICK_SILENCE_S = 0.5


@pytest.fixture
def quick_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SILENCE_S", QUICK_SILENCE_S)
    monkeypatch.setattr(link, "PING_S", QUICK_SILENCE_S / 10)


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PING_S", 0.02)


# --- a gate that answers -------------------------------------------------------------------------------


async def test_who_asks_while_there_is_room_begins_at_once() -> None:
    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        grant = request.take_slot()
        assert grant.replica == "a"
        assert admission.counts == (1, 0)
        grant.release(10)
        request.close()
        await admission.until(lambda: admission.counts == (0, 0))


async def test_who_waits_is_granted_what_another_ingress_releases() -> None:
    async with (
        gate_of("a") as (server, admission),
        client_of(server) as (first, _),
        client_of(server) as (second, _),
    ):
        running = first.ask("", DEFAULT, 1)
        await running.admitted()
        waiting = second.ask("", DEFAULT, 1)
        await waiting.admitted()
        grant = waiting.take_slot()
        assert (admission.counts, grant.replica) == ((1, 1), None)
        running.take_slot().release(10)
        assert await grant.granted() == "a"
        assert admission.counts == (1, 0)


async def test_more_sequences_than_were_asked_for() -> None:
    async with (
        gate_of("a", max_concurrent_requests=3) as (server, admission),
        client_of(server) as (client, _),
    ):
        request = client.ask("", DEFAULT, 2)
        await request.admitted()
        grants = [request.take_slot() for _ in range(4)]
        assert [await grant.granted() for grant in grants[:3]] == ["a"] * 3
        assert grants[3].replica is None
        grants[0].release(10)
        assert await grants[3].granted() == "a"
        assert [grant.number for grant in grants] == [0, 1, 2, 3]
        request.close()
        for grant in grants:
            grant.release(10)
        await admission.until(lambda: admission.counts == (0, 0))


async def test_a_full_queue_is_429_with_a_time_to_come_back() -> None:
    async with gate_of("a", max_queued=0) as (server, _), client_of(server) as (client, _):
        running = client.ask("", DEFAULT, 1)
        await running.admitted()
        with pytest.raises(OverloadedError) as caught:
            await client.ask("", DEFAULT, 1).admitted()
        assert str(caught.value) == MESSAGES[Reason.QUEUE_FULL]
        assert (caught.value.status, caught.value.retry_after_s) == (429, 1.0)


async def test_no_engine_is_503_with_a_time_to_come_back() -> None:
    async with gate_of() as (server, _), client_of(server) as (client, _):
        with pytest.raises(EngineUnavailableError) as caught:
            await client.ask("", DEFAULT, 1).admitted()
        assert str(caught.value) == MESSAGES[Reason.NO_ENGINE]
        assert (caught.value.status, caught.value.retry_after_s) == (503, NO_ENGINE_RETRY_S)


async def test_limits_of_a_key_hold_over_all_ingresses() -> None:
    async with (
        gate_of("a", max_requests_per_key=1) as (server, _),
        client_of(server) as (first, _),
        client_of(server) as (second, _),
    ):
        request = first.ask("key", DEFAULT, 1)
        await request.admitted()
        assert request.limits is not None
        assert (request.limits.max_requests, request.limits.remaining_requests) == (1, 0)
        refused = second.ask("key", DEFAULT, 1)
        with pytest.raises(KeyLimitError) as caught:
            await refused.admitted()
        assert caught.value.status == 429
        assert refused.limits is not None
        await second.ask("other", DEFAULT, 1).admitted()


@pytest.mark.parametrize("has_gate", [True, False])
async def test_who_waits_too_long_is_refused(has_gate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However short that is: no other timer is waited for."""
    monkeypatch.setattr(policy, "SILENCE_S", 3600.0)

    async with (
        gate_of("a", max_wait_s=0.01) as (server, admission),
        client_of(server if has_gate else None, "a", max_wait_s=0.01) as (client, _),
    ):
        running = client.ask("", DEFAULT, 1)
        await running.admitted()
        waiting = client.ask("", DEFAULT, 1)
        await waiting.admitted()
        with pytest.raises(OverloadedError, match="for as long as a request may wait"):
            await waiting.take_slot().granted()
        assert running.take_slot().replica == "a"
        assert admission.counts == (int(has_gate), 0)


async def test_an_engine_that_comes_takes_who_waits() -> None:
    async with gate_of("a") as (server, _), client_of(server) as (client, _):
        request = client.ask("", DEFAULT, 2)
        await request.admitted()
        grants = [request.take_slot(), request.take_slot()]
        assert [grant.replica for grant in grants] == ["a", None]
        server.set_replicas(["a", "b"])
        assert await grants[1].granted() == "b"


async def test_nobody_is_sent_to_an_engine_that_was_found_dead() -> None:
    async with (
        gate_of("a", "b", max_concurrent_requests=2) as (server, _),
        client_of(server) as (client, _),
    ):
        client.lose("a")
        request = client.ask("", DEFAULT, 2)
        await request.admitted()
        assert [request.take_slot().replica for _ in range(2)] == ["b", "b"]


async def test_a_request_that_is_closed_before_its_answer_leaves_nothing_behind() -> None:
    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        answered = asyncio.create_task(client.ask("", DEFAULT, 1).admitted())
        await asyncio.sleep(0)
        answered.cancel()
        left = next(iter(client._requests.values()))
        left.close()
        await client.ask("", DEFAULT, 1).admitted()  # the first one's slot is free
        assert admission.counts == (1, 0)
        assert len(client._requests) == 1


# --- a gate that goes ----------------------------------------------------------------------------------


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
async def test_who_had_asked_a_gate_that_goes_is_answered() -> None:
    async with scripted_gate() as gate, client_of(None, "a") as (client, where):
        where.is_at(gate.address)
        await gate.join()
        request = client.ask("", DEFAULT, 1)
        await gate.hear(Ask)
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
async def test_who_was_not_answered_is_asked_for_again_when_its_ingress_joins_again() -> None:
    async with scripted_gate() as gate, client_of() as (client, where):
        where.is_at(gate.address)
        await gate.join()
        request = client.ask("k", Tier.FLEX, 2)
        assert await gate.hear(Ask) == request.ask
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


# --- an ingress that goes ------------------------------------------------------------------------------


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


# --- what is lost --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_pings")
async def test_a_message_that_was_lost_is_noticed_by_the_gate() -> None:
    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        request = client.ask("", DEFAULT, 1)
        await request.admitted()
        assert client._link
        socket = client._link._socket
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "send", lambda _: None)
            request.close()
            await asyncio.sleep(0)  # it is sent in this round of the loop
        await admission.until(lambda: admission.num_joins == 2)
        assert admission.counts == (0, 0)


@pytest.mark.usefixtures("quick_pings")
async def test_an_event_that_was_lost_is_noticed_by_the_ingress() -> None:
    async with scripted_gate() as gate, client_of() as (client, where):
        where.is_at(gate.address)
        assert await gate.join() == Join([])
        request = client.ask("k", Tier.FLEX, 2)
        await gate.hear(Ask)
        await gate.say(Admitted(0, {0: "a"}, None))
        await request.admitted()
        await gate.hear(Ping)
        await gate.say(Pong(2))  # one was `Granted`
        join = await gate.hear(Join)
        assert isinstance(join, Join)
        [known] = join.open
        assert (known.request, known.key, known.tier) == (0, "k", Tier.FLEX)
        assert (known.has_begun, known.sequences) == (True, {0: "a", 1: None})


@pytest.mark.usefixtures("quick_pings")
async def test_counts_begin_anew_with_each_join() -> None:
    async with scripted_gate() as gate, client_of() as (client, where):
        where.is_at(gate.address)
        await gate.join()
        request = client.ask("", DEFAULT, 1)
        await gate.hear(Ask)
        await gate.say(Admitted(0, {0: "a"}, None), Unknown())
        await request.admitted()
        await gate.hear(Join)
        await gate.say(Joined())
        assert await gate.hear(Ping) == Ping(1)
        await gate.say(Pong(0))
        request.take_slot().release(5)
        # No `Join` in between: the counts of both have agreed.
        assert await gate.hear(Join, Release) == Release(0, 0, 5)


async def test_an_ingress_joins_once_for_all_that_the_gate_does_not_know_of() -> None:
    """A thousand messages to a gate that has forgotten it are not answered with a thousand lists of all."""
    async with scripted_gate() as gate, client_of() as (client, where):
        where.is_at(gate.address)
        await gate.join()
        request = client.ask("", DEFAULT, 1)
        await gate.hear(Ask)
        await gate.say(Admitted(0, {}, None), *[Unknown()] * 3, Joined(), Granted(0, 0, "a"))
        await request.admitted()
        assert await request.take_slot().granted() == "a"  # it has read all three
        client.ask("", DEFAULT, 1)
        await gate.hear(Join)
        assert await gate.hear(Join, Ask) == Ask(1, "", DEFAULT, 1)


async def test_what_was_said_before_a_join_was_read_does_not_hold_after_it() -> None:
    """The gate refuses a request while the ingress tells it anew of that very request.

    To the gate it is open now. If the ingress took it for refused, it would never be closed there, and would
    keep the slot that it gets.
    """
    async with scripted_gate() as gate, client_of() as (client, where):
        where.is_at(gate.address)
        await gate.join()
        request = client.ask("", DEFAULT, 1)
        await gate.hear(Ask)
        await gate.say(Admitted(0, {}, None), Unknown())
        join = await gate.hear(Join)
        assert isinstance(join, Join)
        assert [known.request for known in join.open] == [0]
        await gate.say(Refused(0, Reason.WAITED_TOO_LONG, 1.0, None), Joined(), Granted(0, 0, "a"))
        grant = request.take_slot()
        with suppress(OverloadedError):
            await grant.granted()
        grant.release(0)
        request.close()
        # Whichever it believed, the gate is told that it is over.
        last = client.ask("", DEFAULT, 1)
        assert await gate.hear(Close, Ask) == Close(0)
        last.close()


async def test_a_grant_from_before_a_join_is_not_believed_after_it() -> None:
    """The gate grants the sequence anew after `Join`, maybe on another replica: that one counts."""
    async with scripted_gate() as gate, client_of() as (client, where):
        where.is_at(gate.address)
        await gate.join()
        request = client.ask("", DEFAULT, 1)
        await gate.hear(Ask)
        await gate.say(Admitted(0, {}, None), Unknown())
        await gate.hear(Join)  # which says that it waits
        await gate.say(Granted(0, 0, "old"), Joined(), Granted(0, 0, "new"))
        assert await request.take_slot().granted() == "new"


@pytest.mark.usefixtures("quick_silence")
@pytest.mark.parametrize("pings_are", [Unknown(), Pong(0)])
async def test_a_join_that_was_lost_is_said_again(pings_are: Event) -> None:
    """Or its answer was: the gate says something, so it is not taken for dead, but nothing of it is believed.

    Either on the same connection or on a new one.
    """
    async with scripted_gate() as gate, client_of(None, "a") as (_, where):
        where.is_at(gate.address)
        await gate.hear(Ping)
        await gate.say(pings_are)
        await gate.hear(Join)
        where.is_asked.clear()

        async def hear_another() -> None:
            for _ in range(50):
                if isinstance(await gate.hear(Join, Ping), Join):
                    return
                await gate.say(pings_are)
            raise AssertionError("the gate answers, and will never be believed")

        heard = asyncio.create_task(hear_another())
        asked = asyncio.create_task(where.is_asked.wait())
        done, _ = await asyncio.wait([heard, asked], return_when=asyncio.FIRST_COMPLETED)
        if heard in done:
            asked.cancel()
            await heard
        else:
            heard.cancel()


# --- strangers and garbage -----------------------------------------------------------------------------


@pytest.mark.parametrize("knows", ["nothing", "another key"])
async def test_a_stranger_gets_nothing(knows: str) -> None:
    async with gate_of("a") as (server, admission):
        context = zmq.asyncio.Context()
        stranger = context.socket(zmq.DEALER)
        if knows == "another key":
            stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
            stranger.curve_serverkey, _ = zmq.curve_keypair()
        try:
            monitor = stranger.get_monitor_socket()
            stranger.connect(server.address.endpoint)
            stranger.send(b"anything")
            failed = {
                zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
                zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
                zmq.EVENT_DISCONNECTED,
            }
            while (await zmq.utils.monitor.recv_monitor_message(monitor))["event"] not in failed:
                pass
            async with client_of(server) as (client, _):
                await client.ask("", DEFAULT, 1).admitted()
            assert admission.num_joins == 1
            assert not await stranger.poll(0)
        finally:
            stranger.disable_monitor()
            context.destroy(linger=0)


async def test_keys_are_new_at_each_start() -> None:
    async with gate_of() as (first, _), gate_of() as (second, _):
        assert first.address.key != second.address.key


async def test_garbage_from_an_ingress_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async with gate_of("a") as (server, _), client_of(server) as (client, _):
        assert client._link
        for garbage in (b"", b"\xc1", b"garbage"):
            client._link._socket.send(garbage)
        await client.ask("", DEFAULT, 1).admitted()
    assert "do all replicas run the same version?" in caplog.text


async def test_garbage_from_an_ingress_in_several_parts_does_not_end_the_gate() -> None:
    async with gate_of("a") as (server, admission), client_of(server) as (client, _):
        assert client._link
        client._link._socket.send_multipart([b"one", b"two"])
        client.ask("", DEFAULT, 1)
        taken = asyncio.create_task(admission.until(lambda: admission.counts == (1, 0)))
        await asyncio.wait([server.task, taken], return_when=asyncio.FIRST_COMPLETED)
        assert not server.task.done()


@pytest.mark.usefixtures("quick_silence")
async def test_garbage_from_a_gate_does_not_end_the_connection_for_good() -> None:
    """As a gate of a newer version may send."""
    async with scripted_gate() as gate, client_of(None, "a") as (client, where):
        where.is_at(gate.address)
        await gate.join()
        await gate.say(b"\xc1", b"")
        request = client.ask("", DEFAULT, 1)
        await gate.hear(Ask)
        await gate.say(Admitted(0, {0: "z"}, None))
        await request.admitted()
        assert request.take_slot().replica == "z"  # as the gate says
        asked = asyncio.create_task(where.is_asked.wait())  # after its silence
        await asyncio.wait([client.task, asked], return_when=asyncio.FIRST_COMPLETED)
        assert not client.task.done()
        asked.cancel()
