"""The slots of sequences, from the gate's answer over the call on an engine to what the gate counts then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from serve_app import migration
from serve_app.admission.admission_request import AdmissionRequest, RequestState
from serve_app.admission.client import GateClient
from serve_app.admission.protocol import Tier
from serve_app.api.inbox import Inbox
from serve_app.api.sampling import Sampling
from serve_app.engine_calls import EngineCalls
from serve_app.errors import EngineLostError, OverloadedError, ServiceError
from serve_app.transport.sockets import FrameReceiver
from tests.unit.admission.gates import client_of
from tests.unit.test_engine_calls import Handle
from tests.unit.vllm_adapter.remote_harness import MAX_MODEL_LEN, PROMPT, TOKENS, output
from tests.waiting import pass_until

# vLLM and what it imports use what is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

ALLOWED_TOKENS = 10_000


class Ingress:
    """A `GateClient` that decides alone, over engines with one slot each, and a `RemoteEngine`."""

    def __init__(self, gate: GateClient) -> None:
        from serve_app.vllm_adapter import RemoteEngine, SamplingParamsEncoder

        self.gate, self.handle = gate, Handle()
        self.remote = RemoteEngine(
            EngineCalls(self.handle, (ServiceError,)).run,
            FrameReceiver("127.0.0.1"),
            SamplingParamsEncoder({}, MAX_MODEL_LEN),
            migration.Limits(max_engines=3, max_wait_s=600.0),
            migration.Report(lambda _: None),
        )

    def begin(self, tier: Tier = Tier.DEFAULT) -> tuple[AdmissionRequest, Any, Inbox]:
        request, inbox = self.gate.ask("key", tier, 1), Inbox()
        params = self.remote.sampling_params(Sampling(), None)
        grant = request.take_slot()
        return request, self.remote.start("r", PROMPT, params, Sampling(), grant, inbox, 0, 0), inbox

    async def calls(self, number: int) -> None:
        """Until so many calls have begun."""
        await pass_until(lambda: len(self.handle.calls) == number)

    @property
    def load(self) -> tuple[int, int]:
        """Sequences that run and wait, as the gate knows."""
        return self.gate._own.num_running, self.gate._own.num_waiting

    @property
    def used(self) -> int:
        """Tokens that the key has used, as the gate knows."""
        return round(ALLOWED_TOKENS - self.gate._own._keys._uses["key"].balance)


async def ingress_of(*replicas: str) -> AsyncIterator[Ingress]:
    limits = {"max_queued": 1, "max_tokens_per_minute_per_key": ALLOWED_TOKENS}
    async with client_of(None, *replicas, **limits) as (client, _):
        one = Ingress(client)
        yield one
        one.remote.close()
        await pass_until(lambda: one.remote.num_open == 0)


@pytest.fixture
async def ingress() -> AsyncIterator[Ingress]:
    async for one in ingress_of("a"):
        yield one


@pytest.fixture
async def two_engines() -> AsyncIterator[Ingress]:
    async for one in ingress_of("a", "b"):
        yield one


@pytest.mark.parametrize("how", ["success", "error", "client leaves"])
async def test_the_gate_counts_each_slot_once_and_what_it_has_used(ingress: Ingress, how: str) -> None:
    running, sequence, _ = ingress.begin()
    waiting, next_sequence, _ = ingress.begin()
    await ingress.calls(2)
    assert ingress.load == (1, 1)
    sequence.take(0, output(*TOKENS, ends=how == "success" or None))
    if how == "success":
        ingress.handle.responses[0].future.set_result(len(TOKENS))
    elif how == "error":
        ingress.handle.responses[0].future.set_exception(RuntimeError("nobody has foreseen it"))
    else:
        sequence.cancel()
    await asyncio.wait([sequence.task])
    await pass_until(lambda: ingress.load == (1, 0))  # the one that waited has its slot
    assert ingress.used == len(PROMPT) + len(TOKENS)
    assert waiting.state is RequestState.RUNNING
    next_sequence.cancel()
    await asyncio.wait([next_sequence.task])
    running.close()
    waiting.close()
    await pass_until(lambda: ingress.load == (0, 0))
    assert not ingress.gate._requests


async def test_who_leaves_the_queue_has_used_nothing(ingress: Ingress) -> None:
    ingress.begin()
    _, waiting, _ = ingress.begin()
    await ingress.calls(2)
    waiting.cancel()
    await asyncio.wait([waiting.task])
    await pass_until(lambda: ingress.load == (1, 0))
    assert ingress.used == 0
    assert [response.num_cancelled for response in ingress.handle.responses] == [0, 1]


async def test_who_gives_way_in_the_queue_has_used_nothing(ingress: Ingress) -> None:
    ingress.begin()
    flex, _, inbox = ingress.begin(Tier.FLEX)
    await ingress.calls(2)
    ingress.begin()
    with pytest.raises(OverloadedError):
        await inbox.take()
    flex.close()
    assert flex.state is RequestState.CLOSED
    assert ingress.load == (1, 1)
    assert ingress.used == 0
    await pass_until(lambda: [response.num_cancelled for response in ingress.handle.responses] == [0, 1, 0])


async def test_a_sequence_whose_engine_dies_has_one_slot_and_is_charged_once(two_engines: Ingress) -> None:
    request, sequence, inbox = two_engines.begin()
    await two_engines.calls(1)
    sequence.take(0, output(*TOKENS[:4]))
    first = two_engines.handle.calls[0].grant.replica
    two_engines.handle.responses[0].future.set_exception(ActorDiedError())
    await two_engines.calls(2)
    call = two_engines.handle.calls[1]
    assert {first, call.grant.replica} == {"a", "b"}
    assert call.request.output_token_ids == TOKENS[:4]
    assert two_engines.load == (1, 0)
    assert two_engines.used == 0
    sequence.take(4, output(*TOKENS[4:], ends=True))
    two_engines.handle.responses[1].future.set_result(len(TOKENS))
    await asyncio.wait([sequence.task])
    assert (await inbox.take())[0].token_ids == TOKENS
    await pass_until(lambda: two_engines.load == (0, 0))
    assert two_engines.used == len(PROMPT) + len(TOKENS)
    request.close()
    assert not two_engines.gate._requests


async def test_the_gate_is_told_of_a_dead_replica_by_the_move(two_engines: Ingress) -> None:
    """Nobody is sent there, though Serve has not noticed."""
    two_engines.begin()
    await two_engines.calls(1)
    dead = two_engines.handle.calls[0].grant.replica
    two_engines.handle.responses[0].future.set_exception(ActorDiedError())
    await two_engines.calls(2)
    _, waiting, _ = two_engines.begin()
    await two_engines.calls(3)
    assert dead is not None
    assert two_engines.load == (1, 1)
    two_engines.gate.set_replicas(["a", "b", "c"])
    await pass_until(lambda: two_engines.handle.calls[2].grant.replica == "c")
    waiting.cancel()


async def test_what_has_lost_its_engine_and_gets_no_other_has_used_what_it_had(ingress: Ingress) -> None:
    ingress.remote._limits = migration.Limits(max_engines=2, max_wait_s=0.01)
    _, sequence, inbox = ingress.begin()
    await ingress.calls(1)
    sequence.take(0, output(*TOKENS[:4]))
    ingress.handle.responses[0].future.set_exception(ActorDiedError())
    await inbox.take()
    with pytest.raises(EngineLostError, match="no other had room"):
        await inbox.take()
    await pass_until(lambda: ingress.load == (0, 0))
    assert ingress.used == len(PROMPT) + 4
