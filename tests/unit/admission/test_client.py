"""An ingress on its own, with no gate to ask: its `Admission` answers at once."""

import asyncio

import pytest

from serve_app.admission.admission_request import RequestState
from serve_app.admission.policy import SILENCE_S, Admission
from serve_app.admission.protocol import Ask, Close, Join, OpenRequest, Ping, Refused, Release, Tier
from serve_app.errors import KeyLimitError, OverloadedError
from tests.unit.admission.gates import Heard, client_of, rules

DEFAULT = Tier.DEFAULT


async def test_before_there_is_a_gate_an_ingress_decides_alone() -> None:
    async with client_of(None, "a") as (client, _):
        assert not client.is_connected
        request = client.ask("", DEFAULT, 2)
        await request.admitted()
        first, second = request.take_slot(), request.take_slot()
        assert (first.replica, second.replica) == ("a", None)
        client.set_replicas(["a", "b"])
        assert await second.granted() == "b"
        first.release(10)
        second.release(10)
        request.close()
        assert (client._own.num_running, client._own.num_waiting) == (0, 0)
        assert not client._requests


async def test_a_slot_is_released_once() -> None:
    async with client_of(None, "a") as (client, _):
        request = client.ask("", DEFAULT, 1)
        grant = request.take_slot()
        grant.release(10)
        grant.release(10)
        request.close()
        request.close()
        assert client._own.num_running == 0
        await request.admitted()


async def test_a_request_that_gives_way_has_its_slots_refused() -> None:
    async with client_of(None, "a", max_queued=1) as (client, _):
        client.ask("", DEFAULT, 1)
        flex = client.ask("", Tier.FLEX, 1)
        await flex.admitted()
        grant = flex.take_slot()
        client.ask("", DEFAULT, 1)
        with pytest.raises(OverloadedError):
            await grant.granted()
        flex.close()
        assert client._own.num_waiting == 1


async def test_a_request_that_was_refused_gets_no_slots_later() -> None:
    """Nobody would ever answer."""
    async with client_of(None, "a", max_queued=1) as (client, _):
        client.ask("", DEFAULT, 1)
        flex = client.ask("", Tier.FLEX, 1)
        await flex.admitted()
        client.ask("", DEFAULT, 1)  # flex gives way
        with pytest.raises(OverloadedError):
            await flex.take_slot().granted()


async def test_tokens_count_although_the_response_ends_before_the_call_does() -> None:
    """The last tokens come in frames, and may overtake the reply to the call: then `close` comes first."""
    async with client_of(None, "a", max_tokens_per_minute_per_key=6000) as (client, _):
        request = client.ask("k", DEFAULT, 1)
        await request.admitted()
        grant = request.take_slot()
        request.close()
        grant.release(5000)
        after = client.ask("k", DEFAULT, 1)
        await after.admitted()
        assert after.limits is not None
        # More of them have come back the longer this took.
        assert after.limits.remaining_tokens < 6000


async def test_tokens_count_when_the_call_ends_before_the_response_does() -> None:
    async with client_of(None, "a", max_tokens_per_minute_per_key=6000) as (client, _):
        request = client.ask("k", DEFAULT, 1)
        request.take_slot().release(5000)
        request.close()
        after = client.ask("k", DEFAULT, 1)
        await after.admitted()
        assert after.limits is not None
        assert 1000 <= after.limits.remaining_tokens < 6000


async def test_what_has_begun_is_not_refused_by_a_new_gate() -> None:
    """One call of a request has ended, another runs and a third one waits, while the gate is replaced."""
    async with client_of(None, "a") as (client, _):
        request = client.ask("", DEFAULT, 3)
        request.take_slot().release(10)
        assert [request.take_slot().replica for _ in range(2)] == ["a", None]
        gate = Heard()
        client._join(gate)
        [join] = gate.messages
        assert isinstance(join, Join)
        assert [known.has_begun for known in join.open] == [True]
        new = Admission(rules())
        new.set_replicas(["a"], 1000.0)
        new.handle(b"ingress", join, 1000.0)
        assert (new.num_running, new.num_waiting) == (1, 1)
        new.handle(b"ingress", Ping(1), 1035.0)
        assert not [event for _, event in new.tick(1035.0) if isinstance(event, Refused)]


async def test_an_ingress_that_decides_alone_never_takes_itself_for_dead() -> None:
    """It says nothing to itself while a request runs for long."""
    async with client_of(None, "a") as (client, _):
        running, waiting = client.ask("", DEFAULT, 1), client.ask("", DEFAULT, 1)
        for _ in range(2):
            client._own._ingresses[b""].heard_at -= 2 * SILENCE_S
            client._tick()
        assert (client._own.num_running, client._own.num_waiting) == (1, 1)
        running.take_slot().release(10)
        assert await waiting.take_slot().granted() == "a"


# --- the end of a request ------------------------------------------------------------------------------


async def test_a_request_ends_with_the_last_of_its_calls() -> None:
    async with client_of(None, "a", max_concurrent_requests=3) as (client, _):
        request = client.ask("", DEFAULT, 3)
        await request.admitted()
        first, second = request.take_slot(), request.take_slot()
        gate = Heard()
        client._join(gate)
        gate.messages.clear()
        request.close()
        first.release(5)
        assert Close(0) not in gate.messages
        second.release(7)
        assert gate.messages[-3:] == [Release(0, 0, 5), Release(0, 1, 7), Close(0)]
        request.close()
        second.release(7)
        assert gate.messages.count(Close(0)) == 1
        assert not client._requests


async def test_a_request_of_which_nothing_was_called_ends_at_once() -> None:
    async with client_of(None, "a") as (client, _):
        client.ask("", DEFAULT, 2).close()
        assert (client._own.num_running, client._own.num_waiting) == (0, 0)
        assert not client._own._ingresses[b""].requests
        assert not client._requests


async def test_a_request_that_is_over_says_nothing_of_slots_that_it_did_not_use() -> None:
    """To a gate that asks what is open while its last call ends."""
    async with client_of(None, "a", max_concurrent_requests=3) as (client, _):
        request = client.ask("", DEFAULT, 3)
        grant = request.take_slot()
        request.close()
        gate = Heard()
        client._join(gate)
        [join] = gate.messages
        assert isinstance(join, Join)
        assert [known.sequences for known in join.open] == [{0: "a"}]
        grant.release(10)
        assert gate.messages[1:] == [Release(0, 0, 10), Close(0)]


async def test_what_is_known_of_a_request() -> None:
    async with client_of(None, "a", max_queued=1) as (client, _):
        running, waiting = client.ask("", DEFAULT, 1), client.ask("", Tier.FLEX, 1)
        assert (running.state, running.refusal) == (RequestState.RUNNING, None)
        assert (waiting.state, waiting.refusal) == (RequestState.WAITING, None)
        refused = client.ask("", Tier.FLEX, 1)
        assert refused.state is RequestState.REFUSED
        assert isinstance(refused.refusal, OverloadedError)
        with pytest.raises(OverloadedError):
            await refused.admitted()
        running.take_slot().release(10)
        assert waiting.state is RequestState.RUNNING
        waiting.take_slot().release(10)
        assert waiting.state is RequestState.RUNNING
        waiting.close()
        assert (waiting.state, waiting.refusal) == (RequestState.CLOSED, None)


async def test_who_is_refused_after_a_wait_no_longer_waits() -> None:
    async with client_of(None, "a", max_queued=1) as (client, _):
        client.ask("", DEFAULT, 1)
        flex = client.ask("", Tier.FLEX, 1)
        await flex.admitted()
        client.ask("", DEFAULT, 1)
        assert flex.state is RequestState.REFUSED
        assert isinstance(flex.refusal, OverloadedError)


# --- what is not answered yet --------------------------------------------------------------------------


async def test_who_has_no_answer_yet_is_asked_for_again_and_not_said_to_be_open() -> None:
    async with client_of(None, "a") as (client, _):
        running = client.ask("", DEFAULT, 1)
        client._join(Heard())
        asking = client.ask("k", Tier.FLEX, 2)
        for _ in range(2):
            gate = Heard()
            client._join(gate)
            join, *asks = gate.messages
            assert isinstance(join, Join)
            assert [known.request for known in join.open] == [running.ask.request]
            assert asks == [Ask(asking.ask.request, "k", Tier.FLEX, 2)]
        asking.close()
        gate = Heard()
        client._join(gate)
        [_only_join] = gate.messages


@pytest.mark.parametrize(
    ("changed", "num_admitted"),
    [({"max_queued": 1}, 1), ({"max_queued": 0}, 0), ({"max_requests_per_key": 3, "max_queued": 9}, 2)],
)
async def test_who_falls_back_to_itself_lifts_no_limits(changed: dict[str, int], num_admitted: int) -> None:
    """Nor those of the request that runs meanwhile."""
    async with client_of(None, "a", **changed) as (client, _):
        running = client.ask("k", DEFAULT, 1)
        client._join(Heard())
        asking = [client.ask("k", DEFAULT, 1) for _ in range(6)]
        assert all(request.state is RequestState.ASKING for request in asking)
        client._decide_alone()
        answers = await asyncio.gather(*(request.admitted() for request in asking), return_exceptions=True)
        refused = KeyLimitError if "max_requests_per_key" in changed else OverloadedError
        assert [type(answer) for answer in answers[num_admitted:]] == [refused] * (6 - num_admitted)
        assert answers[:num_admitted] == [None] * num_admitted
        assert (client._own.num_running, client._own.num_waiting) == (1, num_admitted)
        assert running.take_slot().replica == "a"
        assert len(client._requests) == 1 + num_admitted


async def test_who_falls_back_to_itself_lifts_no_limit_of_tokens() -> None:
    """As far as it knows: what was used at the gate is not known here."""
    async with client_of(None, "a", max_tokens_per_minute_per_key=6000) as (client, _):
        client._join(Heard())
        asking = client.ask("k", DEFAULT, 1)
        client._decide_alone()
        await asking.admitted()
        asking.take_slot().release(7000)
        with pytest.raises(KeyLimitError):
            await client.ask("k", DEFAULT, 1).admitted()


async def test_how_long_one_has_waited_is_said() -> None:
    async with client_of(None, "a") as (client, _):
        client.ask("", DEFAULT, 1)
        waiting = client.ask("k", Tier.FLEX, 1)
        waiting.asked_at -= 20.0
        gate = Heard()
        client._join(gate)
        [join] = gate.messages
        assert isinstance(join, Join)
        known = join.open[1]
        assert known == OpenRequest(1, "k", Tier.FLEX, known.waited_s, False, {0: None})
        assert known.waited_s >= 20.0
