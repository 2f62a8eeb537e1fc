"""A sequence in the ingress: what has come of it, from whichever engine replica works on it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from typing import Any

from vllm.v1.engine import EngineCoreOutput, FinishReason

from serve_app.admission.slot_grants import SlotGrant
from serve_app.answers.items import TokenLogprob
from serve_app.api.inbox import Inbox, Reason, Step
from serve_app.errors import EngineAbortedError, ServiceError, TokensLostError
from serve_app.transport.frames import ReceivedTokens
from serve_app.transport.requests import GenerateRequest
from serve_app.vllm_adapter import wire

# The reply to a call and its last frame race. Between two machines the frame is there within milliseconds; a
# busy ingress reads both late, but in the same event loop.
LAST_FRAME_TIMEOUT_S = 5.0

_REASONS: dict[FinishReason, Reason] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.REPETITION: "stop",
}


class RemoteSequence:
    """A sequence, and how much has come of it. One engine replica works on it, and after its loss another."""

    def __init__(
        self,
        request_id: str,
        message: GenerateRequest,
        grant: SlotGrant,
        inbox: Inbox,
        choice: int,
        stop_token_ids: Sequence[int],
    ) -> None:
        self.request_id, self.message, self.grant = request_id, message, grant
        self.token_ids = array("I")
        self.num_lost = 0  # engines
        self.is_finished = asyncio.Event()
        self.task: asyncio.Task[None]
        self._received = ReceivedTokens()
        self._interruption: ServiceError | None = None
        self._inbox, self._choice = inbox, choice
        self._stop_token_ids = frozenset(stop_token_ids)
        self._has_prefill_stats = False

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

    def interrupt(self, error: ServiceError) -> None:
        """Has its task leave the engine that works on it, by `interruption`."""
        if not self.is_finished.is_set() and self._interruption is None:
            self._interruption = error
            self.task.cancel()

    def interruption(self) -> ServiceError | None:
        """Returns why its task was cancelled; None if the sequence is to end."""
        return None if self.is_finished.is_set() else self._interruption

    def go_on(self, message: GenerateRequest, grant: SlotGrant) -> None:
        """Has been sent to another engine."""
        self.message, self.grant = message, grant
        self.num_lost += 1
        self._received = ReceivedTokens(len(self.token_ids))
        self._interruption = None

    def take(self, position: int, output: EngineCoreOutput) -> None:
        """Passes on an output that is the next one. What is here already is left out; a gap interrupts."""
        if self.is_finished.is_set() or self._interruption is not None:
            return
        num_tokens = len(output.new_token_ids)
        try:
            if not self._received.accept(position, num_tokens):
                return
        except TokensLostError as error:
            self.interrupt(error)
            return
        if output.finish_reason is not None and output.finish_reason not in _REASONS:
            self.interrupt(
                EngineAbortedError("the engine has given this answer up; the request can be sent again")
            )
            return
        self.token_ids.extend(output.new_token_ids)
        step = self._inbox.step(self._choice)
        step.token_ids += output.new_token_ids
        if not wire.is_plain(output):
            self._take_more(step, output)
        self._inbox.added(num_tokens, is_last=step.finish is not None)

    def _take_more(self, step: Step, output: EngineCoreOutput) -> None:
        if output.new_logprobs is not None:
            step.logprobs = (step.logprobs or []) + _logprobs(output.new_logprobs)
        if output.new_prompt_logprobs_tensors is not None:
            step.prompt_logprobs = [None, *_logprobs(output.new_prompt_logprobs_tensors.tolists())]
        # What a later engine finds in its cache is more than the prompt, and was not saved.
        if output.prefill_stats is not None and not self._has_prefill_stats:
            self._has_prefill_stats = True
            step.num_cached_tokens = output.prefill_stats.num_cached_tokens
        if output.finish_reason is not None:
            self.is_finished.set()
            step.finish = _REASONS[output.finish_reason]
            if output.stop_reason in self._stop_token_ids:
                step.stop_token = int(output.stop_reason)

    async def wait_for_the_end(self, num_tokens: int) -> None:
        """Returns when its last output is here. Raises `TokensLostError` if that does not come."""
        try:
            async with asyncio.timeout(LAST_FRAME_TIMEOUT_S):
                await self.is_finished.wait()
        except TimeoutError:
            raise TokensLostError(
                f"of {num_tokens} tokens of the answer, {len(self.token_ids)} have arrived, and no end; "
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
