"""Sequences that lose their engines, over scripts in place of engine replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app import migration
from serve_app.admission.protocol import Loss
from serve_app.api.inbox import Inbox
from serve_app.api.sampling import Sampling
from serve_app.errors import (
    DeadlyRequestError,
    EngineFailedError,
    EngineLostError,
    EngineUnreachableError,
    IngressBlockedError,
    ServiceError,
)
from serve_app.transport.requests import GenerateRequest
from tests.examples import examples
from tests.unit.vllm_adapter.remote_harness import PROMPT, TOKENS, Harness, harness, output, whole
from tests.waiting import pass_until

# vLLM and what it imports use what is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

MAX_ENGINES = 4
FAULTS = {
    "died": ("died", Loss.DIED),
    "unreachable": ("unreachable", Loss.CUT_OFF),
    "blocked": ("ingress_blocked", Loss.GAP),
    "aborted": ("aborted", Loss.CUT_OFF),
    "gap": ("tokens_lost", Loss.GAP),
    "no end": ("tokens_lost", Loss.GAP),
}
ERRORS: dict[str, Callable[[], Exception]] = {
    "died": lambda: EngineLostError("it has died"),
    "unreachable": lambda: EngineUnreachableError("it cannot be reached"),
    "blocked": lambda: IngressBlockedError("the ingress does not read"),
}


@dataclass(frozen=True)
class Fault:
    """What becomes of an engine after some tokens of a sequence."""

    kind: str
    num_tokens: int
    is_heard: bool
    """Whether the ingress has what was sent before, when it hears of the end."""


def row(token: int) -> Any:
    """A token's log probability."""
    import numpy as np
    from vllm.v1.outputs import LogprobsLists

    return LogprobsLists(
        np.array([[token]], np.int32), np.array([[-0.5]], np.float32), np.array([1], np.int32)
    )


def steps(begin: int, end: int, *, ends: bool) -> list[tuple[int, Any]]:
    """Outputs of the tokens from `begin` to `end` of the answer."""
    return [
        (
            index,
            output(TOKENS[index], new_logprobs=row(TOKENS[index]), ends=(ends and index == end - 1) or None),
        )
        for index in range(begin, end)
    ]


class Engines:
    """One engine after another, each with its fault; those without one finish the answer."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = list(faults)
        self.done = 0

    async def __call__(self, one: Harness, request: GenerateRequest) -> int:
        before = len(request.output_token_ids)
        assert request.output_token_ids == TOKENS[:before], "what another engine goes on behind"
        if self.done == len(self.faults):
            await one.send(request, steps(before, len(TOKENS), ends=True))
            return len(TOKENS)
        fault = self.faults[self.done]
        self.done += 1
        end = min(before + fault.num_tokens, len(TOKENS) - 1)
        await one.send(request, steps(before, end, ends=False))
        sequence = one.remote._open.get(request.sequence)
        if fault.is_heard and sequence:
            await pass_until(
                lambda: len(sequence.token_ids) >= end or sequence.message.sequence != request.sequence
            )
        return await self.fail(one, request, fault.kind, end)

    async def fail(self, one: Harness, request: GenerateRequest, kind: str, end: int) -> int:
        from vllm.v1.engine import FinishReason

        if kind in ERRORS:
            raise ERRORS[kind]()
        if kind == "aborted":
            await one.send(request, [(end, output(ends=FinishReason.ABORT))])
        elif kind == "gap":
            await one.send(request, [(end + 1, output(99))])
        else:
            return len(TOKENS)  # the last frames do not come
        await asyncio.Event().wait()
        raise AssertionError("the ingress has left it")


@pytest.fixture(autouse=True, scope="module")
def _quick_ends() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve_app.vllm_adapter.remote_sequence.LAST_FRAME_TIMEOUT_S", 0.05)
        yield


FAULT = st.builds(Fault, st.sampled_from(list(FAULTS)), st.integers(0, len(TOKENS)), st.booleans())


@examples(60)
@given(st.lists(FAULT, max_size=MAX_ENGINES - 1))
async def test_whatever_happens_to_engines_the_answer_is_whole(faults: list[Fault]) -> None:
    async with harness(Engines(faults), MAX_ENGINES) as one:
        inbox = Inbox()
        one.start(inbox, Sampling(logprobs=0))
        step = await whole(inbox)
        assert (step.token_ids, step.finish) == (TOKENS, "stop")
        assert [entry.token_id for entry in step.logprobs] == TOKENS
        await pass_until(lambda: one.remote.num_open == 0)
        causes, losses = (
            zip(*(FAULTS[one_fault.kind] for one_fault in faults), strict=True) if faults else ((), ())
        )
        assert one.causes == list(causes)
        # Tokens that are lost a second time are lost by that connection.
        expected = [Loss.CUT_OFF if index and loss is Loss.GAP else loss for index, loss in enumerate(losses)]
        assert [loss for _, loss in one.owner.moves] == expected
        check_what_was_sent(one)
        # The last slot is released, once, with all that was used; the others went with the moves.
        assert one.owner.released == [(100 * len(faults), len(PROMPT) + len(TOKENS))]


def check_what_was_sent(one: Harness) -> None:
    """Each engine knows the sequence by another id and number, and samples alike."""
    requests = one.requests
    assert len({request.request_id for request in requests}) == len(requests)
    assert len({request.sequence for request in requests}) == len(requests)
    assert {request.sampling_params for request in requests} == {requests[0].sampling_params}
    assert all(request.prompt_token_ids == PROMPT for request in requests)
    assert all(request.request_id.startswith("r-") for request in requests)


@pytest.mark.parametrize("kind", FAULTS)
async def test_after_the_last_engine_comes_the_error(kind: str) -> None:
    async with harness(Engines([Fault(kind, 2, True)] * 2), 2) as one:
        inbox = Inbox()
        one.start(inbox)
        seen: list[int] = []

        async def read() -> None:
            while True:
                for step in (await inbox.take()).values():
                    seen.extend(step.token_ids)

        with pytest.raises(ServiceError) as caught:
            await read()
        assert caught.value.status == 503
        assert seen == TOKENS[:4]
        await pass_until(lambda: one.remote.num_open == 0)
        assert len(one.requests) == 2
        assert one.owner.released == [(100, len(PROMPT) + 4)]


async def test_what_the_lost_engine_says_late_is_not_heard() -> None:
    """It was taken for dead, and lives."""
    going_on = asyncio.Event()

    async def generate(one: Harness, request: GenerateRequest) -> int:
        if not request.output_token_ids:
            await one.send(request, steps(0, 3, ends=False))
            await pass_until(lambda: len(one.remote._open[request.sequence].token_ids) == 3)
            raise EngineUnreachableError("it cannot be reached")
        first = one.requests[0]
        await one.send(first, [(3, output(77, 78)), (5, output(79, ends=True))])
        await one.send(request, steps(3, len(TOKENS), ends=True))
        going_on.set()
        return len(TOKENS)

    async with harness(generate, 2) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await whole(inbox)).token_ids == TOKENS
        await going_on.wait()


async def test_an_engine_that_dies_after_the_end_has_lost_nothing() -> None:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        sequence = one.remote._open[request.sequence]
        await one.send(request, steps(0, len(TOKENS), ends=True))
        await sequence.is_finished.wait()
        raise EngineLostError("it has died")

    async with harness(generate, 2) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await whole(inbox)).token_ids == TOKENS
        await pass_until(lambda: one.remote.num_open == 0)
        assert (one.causes, len(one.requests)) == ([], 1)


async def test_cached_tokens_are_those_of_the_first_engine() -> None:
    from vllm.v1.engine import PrefillStats

    async def generate(one: Harness, request: GenerateRequest) -> int:
        before = len(request.output_token_ids)
        stats = PrefillStats(num_prompt_tokens=3, num_cached_tokens=2 + before)
        tokens = output(*TOKENS[before : before + 2], prefill_stats=stats, ends=before > 0 or None)
        await one.send(request, [(before, tokens)])
        if not before:
            await pass_until(lambda: len(one.remote._open[request.sequence].token_ids) == 2)
            raise EngineLostError("it has died")
        return 4

    async with harness(generate, 2) as one:
        inbox = Inbox()
        one.start(inbox)
        step = await whole(inbox)
        assert (step.num_cached_tokens, step.token_ids) == (2, TOKENS[:4])


@pytest.mark.parametrize("when", ["waiting for a slot", "generating again"])
async def test_a_client_that_leaves_after_the_loss(when: str) -> None:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        if len(one.requests) == 1:
            raise EngineLostError("it has died")
        await asyncio.Event().wait()
        return 0

    async with harness(generate, 3) as one:
        one.owner.moves_to = None if when == "waiting for a slot" else "b"
        sequence = one.start(Inbox())
        await pass_until(lambda: bool(one.owner.moves))
        if when == "generating again":
            await pass_until(lambda: len(one.requests) == 2)
        sequence.cancel()
        await pass_until(lambda: one.remote.num_open == 0)
        assert len(one.requests) == (1 if when == "waiting for a slot" else 2)
        assert [number for number, _ in one.owner.released] == [100]


async def test_a_gap_and_a_client_that_leaves_at_the_same_moment() -> None:
    async with harness(Engines([Fault("gap", 3, True)]), 3) as one:
        sequence = one.start(Inbox())
        await pass_until(lambda: len(sequence.token_ids) == 3)
        sequence.take(5, output(99))
        sequence.cancel()
        await pass_until(lambda: one.remote.num_open == 0)
        assert one.owner.moves == []


async def test_no_engine_with_room_within_the_time() -> None:
    async with harness(Engines([Fault("died", 3, True)]), 3) as one:
        one.remote._limits = migration.Limits(3, max_wait_s=0.01)
        one.owner.moves_to = None
        inbox = Inbox()
        one.start(inbox)
        said: list[int] = []

        async def read() -> None:
            while True:
                said.extend((await inbox.take())[0].token_ids)

        with pytest.raises(EngineLostError, match=r"no other had room for the rest within 0\.01 s"):
            await read()
        assert said == TOKENS[:3]
        assert len(one.owner.moves) == 1


async def test_a_request_that_may_be_deadly_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with harness(Engines([Fault("died", 3, True)]), 8) as one:
        one.owner.moves_to = None
        inbox = Inbox()
        one.start(inbox)
        await pass_until(lambda: bool(one.owner.moved))
        one.owner.moved[0].refuse(DeadlyRequestError("two engines have died"))
        with pytest.raises(DeadlyRequestError):
            await whole(inbox)
    assert "two engines have died" in caplog.text


async def test_what_nobody_has_foreseen_is_not_tried_again() -> None:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        raise RuntimeError("a wire broke")

    async with harness(generate, 3) as one:
        inbox = Inbox()
        one.start(inbox)
        with pytest.raises(EngineFailedError):
            await whole(inbox)
        assert len(one.requests) == 1


async def test_the_log_has_one_line_for_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(migration, "LOG_DELAY_S", 0.0)
    counted: list[str] = []
    report = migration.Report(counted.append)
    for kind, number in (("died", 3), ("tokens_lost", 1)):
        for _ in range(number):
            report.add(migration.Cause(kind, Loss.DIED), EngineLostError("first"))
    await pass_until(lambda: bool(caplog.records))
    [record] = caplog.records
    assert (
        "behind what they have said: died 3, tokens_lost 1. The first of them: first" in record.getMessage()
    )
    assert counted == ["died"] * 3 + ["tokens_lost"]
