"""The ingress's half of the adapter, over a script in place of an engine: real sockets, vLLM's structs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from ray.exceptions import RayTaskError

from serve_app.answers.items import TokenLogprob
from serve_app.api.inbox import Inbox
from serve_app.api.sampling import Sampling
from serve_app.config import read_config
from serve_app.engine_arguments import engine_arguments
from serve_app.errors import (
    BadRequestError,
    EngineAbortedError,
    EngineFailedError,
    EngineLostError,
    TokensLostError,
)
from serve_app.transport.requests import GenerateRequest
from tests.services import ROOT
from tests.unit.vllm_adapter.remote_harness import (
    MAX_MODEL_LEN,
    PROMPT,
    TOKENS,
    Generate,
    Harness,
    Step,
    all_tokens,
    harness,
    output,
    whole,
)
from tests.waiting import pass_until

# vLLM and what it imports use what is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


# --- what is sent --------------------------------------------------------------------------------------


def params_of(request: GenerateRequest) -> Any:
    from vllm import SamplingParams

    return msgspec.msgpack.decode(request.sampling_params, type=SamplingParams)


async def test_what_is_sent_to_the_engine() -> None:
    async with harness(all_tokens) as one:
        inbox = Inbox()
        sampling = Sampling(temperature=0.5, seed=9, priority=3, cache_salt="salt", max_tokens=77)
        for choice in range(3):
            one.start(inbox, sampling, choice)
        await pass_until(lambda: one.remote.num_open == 0)
        assert [params_of(request).seed for request in one.requests] == [9, 10, 11]
        request = one.requests[0]
        params = params_of(request)
        assert (request.prompt_token_ids, request.priority, request.cache_salt) == (PROMPT, 3, "salt")
        assert (params.max_tokens, params.temperature, params.n, params.top_p) == (77, 0.5, 1, 0.9)
        assert len({request.request_id for request in one.requests}) == 3
        assert all(request.request_id.startswith("r-") for request in one.requests)
        assert one.owner.released == [(0, len(PROMPT) + len(TOKENS))] * 3


@pytest.mark.parametrize(("asked", "sent"), [(None, 97), (5, 5), (100, 97)])
def test_no_more_tokens_than_there_is_room_for(asked: int | None, sent: int) -> None:
    from serve_app.vllm_adapter import SamplingParamsEncoder

    encoder = SamplingParamsEncoder({}, MAX_MODEL_LEN)
    content = encoder.encode(encoder.params(Sampling(max_tokens=asked)), 0, len(PROMPT))
    assert msgspec.msgpack.decode(content)["max_tokens"] == sent


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        (Sampling(temperature=-1.0), "temperature"),
        (Sampling(top_p=2.0), "top_p"),
        (Sampling(seed=1 << 70), "seed"),
        (Sampling(priority=1 << 70), None),
        (Sampling(min_tokens=-(1 << 70)), None),
        (Sampling(logit_bias={"x": 1.0}), "logit_bias"),
        (Sampling(min_tokens=10_000), "min_tokens"),
        (Sampling(top_k=-7), "top_k"),
        (Sampling(bad_words=[""]), "bad_words"),
        (Sampling(repetition_detection={"max_pattern_size": -1}), None),
        (
            Sampling(repetition_detection={"max_pattern_size": 10**9, "min_count": 2}),
            "repetition_detection.max_pattern_size",
        ),
        (Sampling(logit_bias={"9" * 25: 1.0}), None),
        # Each of these would end the engine, or be copied to it for each choice.
        (Sampling(logit_bias={str(token): 1.0 for token in range(1025)}), "logit_bias"),
        (Sampling(allowed_token_ids=list(range(1025))), "allowed_token_ids"),
        (Sampling(stop_token_ids=list(range(121)), min_tokens=1), "stop_token_ids"),
        (Sampling(bad_words=["a word and another " * 200, "short"]), "bad_words"),
        (Sampling(bad_words=["word"] * 129), "bad_words"),
        (Sampling(vllm_xargs={"key": "x" * 100_000}), None),
    ],
)
def test_what_vllm_refuses_is_the_callers_mistake(sampling: Sampling, param: str | None) -> None:
    from serve_app.vllm_adapter import SamplingParamsEncoder

    with pytest.raises(BadRequestError) as caught:
        SamplingParamsEncoder({}, MAX_MODEL_LEN).params(sampling)
    assert caught.value.param == param
    assert "value=" not in str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_argument_that_a_config_gives_is_vllms(path: Any) -> None:
    from serve_app.vllm_adapter import argument_names

    assert set(engine_arguments(read_config(path), "/model", "/speculator")) <= argument_names()


# --- what comes back -----------------------------------------------------------------------------------


async def test_tokens_and_all_that_comes_with_them() -> None:
    import numpy as np
    from vllm.v1.engine import PrefillStats
    from vllm.v1.outputs import LogprobsLists

    def rows(*ids: int) -> Any:
        shape = (len(ids), 3)
        matrix = np.array([[first, first + 100, first + 200] for first in ids], np.int32).reshape(shape)
        values = np.array([[-0.5, -1.0, -1.5]] * len(ids), np.float32).reshape(shape)
        return LogprobsLists(matrix, values, np.array(ids, np.int32) - 9)

    async def generate(one: Harness, request: GenerateRequest) -> int:
        stats = PrefillStats(num_prompt_tokens=3, num_cached_tokens=2)
        await one.send(
            request,
            [
                (0, output(10, new_logprobs=rows(10), prefill_stats=stats)),
                (1, output(11, 12, new_logprobs=rows(11, 12))),
                (3, output(13, new_logprobs=rows(13), ends=True, stop_reason=13)),
            ],
        )
        return 4

    async with harness(generate) as one:
        inbox = Inbox()
        one.start(inbox, Sampling(logprobs=2, stop_token_ids=[13]))
        step = await whole(inbox)
        assert (step.token_ids, step.finish, step.stop_token) == ([10, 11, 12, 13], "stop", 13)
        assert step.num_cached_tokens == 2
        assert step.logprobs == [
            TokenLogprob(token, -0.5, ((token + 100, -1.0), (token + 200, -1.5)), rank=token - 9)
            for token in (10, 11, 12, 13)
        ]


async def test_a_stop_token_of_the_checkpoint_is_not_the_requests() -> None:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        await one.send(request, [(0, output(200012, ends=True, stop_reason=200012))])
        return 1

    async with harness(generate) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await whole(inbox)).stop_token is None


@pytest.mark.parametrize(
    ("name", "expected"), [("STOP", "stop"), ("LENGTH", "length"), ("REPETITION", "stop")]
)
async def test_why_it_ended(name: str, expected: str) -> None:
    from vllm.v1.engine import FinishReason

    async def generate(one: Harness, request: GenerateRequest) -> int:
        await one.send(request, [(0, output(1, ends=FinishReason[name]))])
        return 1

    async with harness(generate) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await whole(inbox)).finish == expected


@pytest.mark.parametrize("name", ["ABORT", "ERROR"])
async def test_an_end_that_nobody_asked_for_is_an_error(name: str) -> None:
    from vllm.v1.engine import FinishReason

    async def generate(one: Harness, request: GenerateRequest) -> int:
        await one.send(request, [(0, output(ends=FinishReason[name]))])
        return 0

    async with harness(generate) as one:
        inbox = Inbox()
        one.start(inbox)
        with pytest.raises(EngineAbortedError, match="can be sent again"):
            await whole(inbox)


# --- what a network, or a mixture of versions, can do to frames ----------------------------------------


def repeated(steps: list[Step]) -> list[Step]:
    return [step for step in steps for _ in range(2)]


def repeated_late(steps: list[Step]) -> list[Step]:
    return [*steps[:5], steps[1], *steps[5:], steps[2]]


def overlapping(steps: list[Step]) -> list[Step]:
    """The first half once more, as one: a sender that merged what it had sent already."""
    half = [token for _, step in steps[:5] for token in step]
    return [*steps[:5], (0, half), *steps[5:]]


def lost_in_the_middle(steps: list[Step]) -> list[Step]:
    return [*steps[:5], *steps[6:]]


def lost_at_the_start(steps: list[Step]) -> list[Step]:
    return steps[1:]


def swapped(steps: list[Step]) -> list[Step]:
    return [*steps[:5], steps[6], steps[5], *steps[7:]]


def lost_at_the_end(steps: list[Step]) -> list[Step]:
    return steps[:-1]


def all_lost(_: list[Step]) -> list[Step]:
    return []


def sending(mishap: Callable[[list[Step]], list[Step]]) -> Generate:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        steps = mishap([(index, [token]) for index, token in enumerate(TOKENS)])
        outputs = [(position, output(*step, ends=step[-1] == TOKENS[-1] or None)) for position, step in steps]
        await one.send(request, outputs)
        return len(TOKENS)

    return generate


@pytest.mark.parametrize("mishap", [repeated, repeated_late, overlapping])
async def test_the_tokens_are_right(mishap: Any) -> None:
    async with harness(sending(mishap)) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await whole(inbox)).token_ids == TOKENS


@pytest.mark.parametrize(
    "mishap", [lost_in_the_middle, lost_at_the_start, swapped, lost_at_the_end, all_lost]
)
async def test_the_answer_fails_and_can_be_sent_again(mishap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.vllm_adapter.remote_sequence.LAST_FRAME_TIMEOUT_S", 0.1)

    async with harness(sending(mishap)) as one:
        inbox = Inbox()
        one.start(inbox)
        seen: list[int] = []

        async def read() -> None:
            while True:
                for step in (await inbox.take()).values():
                    seen.extend(step.token_ids)

        with pytest.raises(TokensLostError, match="can be sent again"):
            await read()
        assert TOKENS[: len(seen)] == seen


async def test_what_cannot_be_read_and_what_is_late_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        from serve_app.transport.frames import FrameHeader, encode_header

        link = one.sender.open(request.reply_to)
        link.add(10**6, 0, output(1, 2), 2)
        await link._socket.send_multipart([encode_header(FrameHeader([0], [0])), b"\xc1"])
        one.sender.flush()
        one.sender.release(link)
        return await all_tokens(one, request)

    async with harness(generate) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await whole(inbox)).token_ids == TOKENS
    assert "a frame was dropped" in caplog.text


# --- errors --------------------------------------------------------------------------------------------


def failing(error: Exception) -> Generate:
    async def generate(one: Harness, request: GenerateRequest) -> int:
        await one.send(request, [(0, output(1, 2))])
        await pass_until(lambda: all(len(sequence.token_ids) >= 2 for sequence in one.remote._open.values()))
        raise error

    return generate


async def test_an_error_comes_after_the_tokens_before_it() -> None:
    async with harness(failing(EngineLostError("it died"))) as one:
        inbox = Inbox()
        one.start(inbox)
        assert (await inbox.take())[0].token_ids == [1, 2]
        with pytest.raises(EngineLostError, match="it died"):
            await inbox.take()


async def test_what_the_engine_refuses_names_its_field() -> None:
    from vllm.exceptions import VLLMValidationError

    async with harness(
        failing(VLLMValidationError("too hot", parameter="temperature", value="9" * 9999))
    ) as one:
        inbox = Inbox()
        one.start(inbox)
        with pytest.raises(BadRequestError) as caught:
            await whole(inbox)
        assert (str(caught.value), caught.value.param) == ("too hot", "temperature")


async def test_an_unforeseen_error_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with harness(failing(RuntimeError("a wire broke"))) as one:
        inbox = Inbox()
        one.start(inbox)
        with pytest.raises(EngineFailedError) as caught:
            await whole(inbox)
        assert str(caught.value).startswith("an unforeseen error in an engine; the log of the service has it")
    assert "RuntimeError: a wire broke" in caplog.text


async def test_the_traceback_of_a_replica_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    said = "Traceback: File /home/me/secret.py, ip=10.0.0.1"
    remote = RayTaskError("generate", said, ValueError("no pages"))  # type: ignore[no-untyped-call]

    error = remote.as_instanceof_cause()  # type: ignore[no-untyped-call]
    async with harness(failing(error)) as one:
        inbox = Inbox()
        one.start(inbox)
        with pytest.raises(EngineFailedError) as caught:
            await whole(inbox)
        assert str(caught.value).startswith("an unforeseen error in an engine; the log of the service has it")
    assert "/home/me/secret.py" in caplog.text


async def test_cancelling_ends_the_call() -> None:
    left = asyncio.Event()

    async def generate(one: Harness, request: GenerateRequest) -> int:
        await one.send(request, [(0, output(1, 2))])
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return 0

    async with harness(generate) as one:
        inbox = Inbox()
        sequence = one.start(inbox)
        await inbox.take()
        sequence.cancel()
        await left.wait()
        sequence.cancel()  # once more, for nothing


async def test_what_is_cancelled_before_it_has_begun_gives_its_slot_back() -> None:
    async with harness(all_tokens) as one:
        one.start(Inbox()).cancel()
        await pass_until(lambda: one.remote.num_open == 0)
        assert one.requests == []
        assert one.owner.released == [(0, len(PROMPT))], "its slot was granted"


async def test_a_call_that_has_come_to_its_end_is_not_cancelled() -> None:
    """The last frame overtakes the reply: the answer is over, and its reply still to come."""
    replies = asyncio.Event()
    cancelled: list[bool] = []

    async def generate(one: Harness, request: GenerateRequest) -> int:
        num_tokens = await all_tokens(one, request)
        try:
            await replies.wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return num_tokens

    async with harness(generate) as one:
        inbox = Inbox()
        sequence = one.start(inbox)
        await whole(inbox)
        sequence.cancel()
        replies.set()
    assert cancelled == []
