"""The ingress's half: sequences that run in engine replicas, and whose tokens come back in step frames."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

import msgspec
from vllm.exceptions import VLLMClientError
from vllm.v1.engine import EngineCoreOutput, FinishReason

from serve_app.admission.slot_grants import SlotGrant
from serve_app.answers.items import TokenLogprob
from serve_app.api.inbox import Inbox, Reason
from serve_app.api.sampling import Sampling
from serve_app.errors import EngineFailedError, ServiceError, TokensLostError
from serve_app.transport.frames import ReceivedTokens
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver
from serve_app.vllm_adapter import wire
from serve_app.vllm_adapter.sampling_params import SamplingParamsEncoder, client_error

logger = logging.getLogger(__name__)

__all__ = ["RemoteEngine", "RemoteSequence"]

Generate = Callable[[GenerateRequest, ReceivedTokens, SlotGrant], Awaitable[int]]

# The reply to a call and its last frame race. Between two machines the frame is there within milliseconds; a
# busy ingress reads both late, but in the same event loop.
LAST_FRAME_TIMEOUT_S = 30.0

_REASONS: dict[FinishReason, Reason] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.REPETITION: "stop",
}


class RemoteSequence:
    """A sequence that an engine replica is working on."""

    def __init__(self, request_id: str, inbox: Inbox, choice: int, stop_token_ids: Sequence[int]) -> None:
        self.request_id = request_id
        self.arrived = ReceivedTokens()
        self.is_finished = asyncio.Event()
        self.task: asyncio.Task[None]
        self._inbox, self._choice = inbox, choice
        self._stop_token_ids = frozenset(stop_token_ids)

    def cancel(self) -> None:
        """Ends it in its engine; nothing more arrives. Does nothing after its end.

        The reply to a call that has come to its end by itself may still be under way, and is left to arrive.
        """
        if not self.is_finished.is_set():
            self.is_finished.set()
            self.task.cancel()

    def fail(self, error: ServiceError) -> None:
        """Ends it, and the answer that it is of, with an error."""
        if not self.is_finished.is_set():
            self._inbox.fail(error)
            self.cancel()

    def take(self, position: int, output: EngineCoreOutput) -> None:
        """Passes on an output that is the next one. What is here already is left out; a gap is an error."""
        if self.is_finished.is_set():
            return
        num_tokens = len(output.new_token_ids)
        try:
            if not self.arrived.accept(position, num_tokens):
                return
        except TokensLostError as error:
            logger.error("request %s: %s", self.request_id, error)
            self.fail(error)
            return
        step = self._inbox.step(self._choice)
        step.token_ids += output.new_token_ids
        if not wire.is_plain(output):
            if output.new_logprobs is not None:
                step.logprobs = (step.logprobs or []) + _logprobs(output.new_logprobs)
            if output.new_prompt_logprobs_tensors is not None:
                step.prompt_logprobs = [None, *_logprobs(output.new_prompt_logprobs_tensors.tolists())]
            if output.prefill_stats is not None:
                step.num_cached_tokens = output.prefill_stats.num_cached_tokens
            if output.finish_reason is not None:
                reason = _REASONS.get(output.finish_reason)
                if reason is None:
                    self.fail(EngineFailedError(f"the engine has ended this answer: {output.finish_reason}"))
                    return
                self.is_finished.set()
                step.finish = reason
                if output.stop_reason in self._stop_token_ids:
                    step.stop_token = int(output.stop_reason)
        self._inbox.added(num_tokens, is_last=step.finish is not None)


class RemoteEngine:
    """Starts sequences, each a call of `generate`, and takes their tokens from `receiver`.

    `generate` returns the length of the answer, whose tokens come to `receiver`, and may see how many have.
    Must be made in a running event loop.
    """

    def __init__(
        self, generate: Generate, receiver: FrameReceiver, sampling_params: SamplingParamsEncoder
    ) -> None:
        self._generate, self._receiver, self._encode = generate, receiver, sampling_params
        self._decode = wire.new_decoder()
        self._numbers = count()
        self._open: dict[int, RemoteSequence] = {}
        self._task = asyncio.create_task(self._receive())

    @property
    def num_open(self) -> int:
        """Sequences that have not ended."""
        return len(self._open)

    def sampling_params(self, sampling: Sampling, structural_tag: str | None) -> Any:
        """Returns vLLM's parameters, checked, for `start`. Raises `BadRequestError` for what vLLM refuses."""
        return self._encode.params(sampling, structural_tag)

    def start(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: Any,
        sampling: Sampling,
        grant: SlotGrant,
        inbox: Inbox,
        choice: int,
        seed_offset: int,
    ) -> RemoteSequence:
        """Begins a sequence in its slot. Its steps go to `inbox` as those of `choice`, its error too.

        `seed_offset` is added to the request's seed, if it has one: choices of one prompt differ.
        """
        number = next(self._numbers)
        message = GenerateRequest(
            request_id=f"{request_id}-{uuid.uuid4().hex[:8]}",
            prompt_token_ids=list(prompt_token_ids),
            sampling_params=self._encode.encode(params, seed_offset, len(prompt_token_ids)),
            reply_to=self._receiver.address,
            sequence=number,
            priority=sampling.priority,
            cache_salt=sampling.cache_salt,
            session_id=sampling.session_id,
        )
        sequence = RemoteSequence(message.request_id, inbox, choice, sampling.stop_token_ids or ())
        self._open[number] = sequence
        sequence.task = asyncio.create_task(self._run(sequence, message, grant))
        # Not in the task, which runs none of its own code if it is cancelled before it has begun.
        sequence.task.add_done_callback(lambda _: self._ended(number, grant))
        return sequence

    def _ended(self, number: int, grant: SlotGrant) -> None:
        del self._open[number]
        grant.release(0)  # of no effect where the call has done it, and said how much was used

    async def _run(self, sequence: RemoteSequence, message: GenerateRequest, grant: SlotGrant) -> None:
        try:
            num_tokens = await self._generate(message, sequence.arrived, grant)
            await _wait_for_the_end(sequence, num_tokens)
        except ServiceError as error:
            sequence.fail(error)
        except VLLMClientError as error:
            sequence.fail(client_error(error))
        except Exception as error:
            # The last stop before the client: whatever it is, one request fails and the others go on.
            logger.exception("request %s failed in its engine replica", message.request_id)
            # What an error of another process says of itself is its traceback: addresses and paths.
            cause = getattr(error, "cause", None) or error
            sequence.fail(EngineFailedError(f"engine failure: {cause}"))

    async def _receive(self) -> None:
        while True:
            for header, parts in await self._receiver.receive():
                try:
                    outputs = self._decode(parts)
                except msgspec.MsgspecError as error:
                    logger.error("a frame was dropped: %s; do all replicas run the same version?", error)
                    continue
                for number, position, output in zip(header.sequences, header.positions, outputs, strict=True):
                    if sequence := self._open.get(number):
                        sequence.take(position, output)

    def close(self) -> None:
        """Ends all sequences, and takes no more frames."""
        for sequence in list(self._open.values()):
            sequence.cancel()
        self._task.cancel()
        self._receiver.close()


async def _wait_for_the_end(sequence: RemoteSequence, num_tokens: int) -> None:
    try:
        async with asyncio.timeout(LAST_FRAME_TIMEOUT_S):
            await sequence.is_finished.wait()
    except TimeoutError:
        raise TokensLostError(
            f"of {num_tokens} tokens of the answer, {sequence.arrived.num_tokens} have arrived, and no end; "
            "the request can be sent again"
        ) from None


def _logprobs(lists: Any) -> list[TokenLogprob]:
    """vLLM's rows: the token itself first, then the likeliest ones."""
    rows = zip(
        lists.logprob_token_ids.tolist(),
        lists.logprobs.tolist(),
        lists.sampled_token_ranks.tolist(),
        strict=True,
    )
    return [
        TokenLogprob(ids[0], values[0], tuple(zip(ids[1:], values[1:], strict=True)), rank)
        for ids, values, rank in rows
    ]
