"""A gate that answers its ingresses, over real sockets on the loopback interface."""

import asyncio

import pytest

from serve_app.admission import policy
from serve_app.admission.client import MESSAGES
from serve_app.admission.policy import NO_ENGINE_RETRY_S
from serve_app.admission.protocol import Loss, Reason, Tier
from serve_app.errors import DeadlyRequestError, EngineUnavailableError, KeyLimitError, OverloadedError
from tests.unit.admission.gates import client_of, gate_of

DEFAULT = Tier.DEFAULT


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


@pytest.mark.parametrize("has_gate", [True, False])
async def test_a_sequence_whose_engine_is_lost_goes_on_elsewhere(has_gate: bool) -> None:
    replicas = () if has_gate else ("a", "b")
    async with (
        gate_of("a", "b", max_concurrent_requests=2) as (server, gate),
        client_of(server if has_gate else None, *replicas, max_concurrent_requests=2) as (client, _),
    ):
        admission = gate if has_gate else client._own
        request = client.ask("", DEFAULT, 3)
        await request.admitted()
        grants = [request.take_slot() for _ in range(3)]
        assert [await grant.granted() for grant in grants] == ["a", "b", "a"]
        moves = [grant.move(Loss.DIED) for grant in grants if grant.replica == "a"]
        assert await moves[0].granted() == "b"
        assert moves[1].replica is None
        grants[1].release(10)
        assert await moves[1].granted() == "b"
        # The request was alone on the one that died, and so it is on the next, as far as the gate knows.
        again = [move.move(Loss.DIED) for move in moves]
        for grant in again:
            if has_gate:
                with pytest.raises(DeadlyRequestError):
                    await grant.granted()
            else:
                assert grant.replica is None
            grant.release(0)
        request.close()
        if has_gate:
            await gate.until(lambda: gate.counts == (0, 0))
        assert (admission.num_running, admission.num_waiting) == (0, 0)


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
