"""The ingress's half: sequences that run in engine replicas, and whose tokens come back in step frames."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from itertools import count
from typing import Any

import msgspec
from msgspec.structs import replace
from vllm.exceptions import VLLMClientError

from serve_app import migration
from serve_app.admission.slot_grants import SlotGrant
from serve_app.api.inbox import Inbox
from serve_app.api.sampling import Sampling
from serve_app.errors import EngineFailedError, EngineLostError, ServiceError
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver
from serve_app.vllm_adapter import wire
from serve_app.vllm_adapter.remote_sequence import RemoteSequence
from serve_app.vllm_adapter.sampling_params import SamplingParamsEncoder, client_error

logger = logging.getLogger("ray.serve")

__all__ = ["RemoteEngine", "RemoteSequence"]

Generate = Callable[[GenerateRequest, SlotGrant], Awaitable[int]]

UNFORESEEN = "an unforeseen error in an engine; the log of the service has it, by the request's id"


class RemoteEngine:
    """Starts sequences, each a call of `generate`, and takes their tokens from `receiver`.

    `generate` returns the length of the answer, whose tokens come to `receiver`. A sequence whose engine is
    lost goes on in another (`migration`). Must be made in a running event loop.
    """

    def __init__(
        self,
        generate: Generate,
        receiver: FrameReceiver,
        sampling_params: SamplingParamsEncoder,
        limits: migration.Limits,
        report: migration.Report,
    ) -> None:
        """`limits` are those of migration, and `report` is told of each."""
        self._generate, self._receiver, self._encode = generate, receiver, sampling_params
        self._limits, self._report = limits, report
        self._decode = wire.new_decoder()
        self._numbers = count()
        self._open: dict[int, RemoteSequence] = {}
        self._task = asyncio.create_task(self._receive())

    @property
    def num_open(self) -> int:
        """Sequences that have not ended."""
        return len(self._open)

    def check_health(self) -> None:
        """Raises what has ended the receiving of frames, if anything has."""
        if self._task.done():
            self._task.result()

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
        message = GenerateRequest(
            request_id=_unique(request_id),
            # Not copied: choices have one prompt, which is encoded once.
            prompt_token_ids=prompt_token_ids
            if isinstance(prompt_token_ids, list)
            else list(prompt_token_ids),
            sampling_params=self._encode.encode(params, seed_offset, len(prompt_token_ids)),
            reply_to=self._receiver.address,
            sequence=next(self._numbers),
            priority=sampling.priority,
            cache_salt=sampling.cache_salt,
            session_id=sampling.session_id,
        )
        sequence = RemoteSequence(request_id, message, grant, inbox, choice, sampling.stop_token_ids or ())
        self._open[message.sequence] = sequence
        sequence.task = asyncio.create_task(self._run(sequence))
        # Not in the task, which runs none of its own code if it is cancelled before it has begun.
        sequence.task.add_done_callback(lambda _: self._ended(sequence))
        return sequence

    def _ended(self, sequence: RemoteSequence) -> None:
        del self._open[sequence.message.sequence]
        has_begun = sequence.num_lost or sequence.grant.replica is not None
        num_tokens = len(sequence.message.prompt_token_ids) + len(sequence.token_ids) if has_begun else 0
        sequence.grant.release(num_tokens)

    async def _run(self, sequence: RemoteSequence) -> None:
        try:
            while (loss := await self._generate_on_one_engine(sequence)) is not None:
                self._move(sequence, loss)
        except ServiceError as error:
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.error("request %s: %s", sequence.message.request_id, error.__cause__ or error)
            sequence.fail(error)
        except VLLMClientError as error:
            sequence.fail(client_error(error))
        except Exception:
            # The last stop before the client: whatever it is, one request fails and the others go on. What an
            # error of another process says of itself is its traceback, with addresses and paths.
            logger.exception("request %s failed in its engine replica", sequence.message.request_id)
            sequence.fail(EngineFailedError(UNFORESEEN))

    async def _generate_on_one_engine(self, sequence: RemoteSequence) -> ServiceError | None:
        """Returns None when the sequence has ended, or else what has parted it from its engine."""
        timer: asyncio.TimerHandle | None = None
        if sequence.num_lost:
            no_slot = EngineLostError(
                "the engine that was generating this answer was lost, and no other had room for the rest "
                f"within {self._limits.max_wait_s:g} s; the request can be sent again"
            )
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self._limits.max_wait_s, sequence.grant.refuse, no_slot)
        loss: ServiceError | None = None
        try:
            num_tokens = await self._generate(sequence.message, sequence.grant)
            await sequence.wait_for_the_end(num_tokens)
        except asyncio.CancelledError:
            loss = sequence.interruption()
            task = asyncio.current_task()
            if loss is None or task is None:
                raise
            task.uncancel()
        except ServiceError as error:
            loss = error
        finally:
            if timer:
                timer.cancel()
        return None if sequence.is_finished.is_set() else loss

    def _move(self, sequence: RemoteSequence, error: ServiceError) -> None:
        """Has it go on elsewhere. Raises `error` where it may not."""
        before = sequence.message
        # One that was refused its slot has been in no engine, and has lost none.
        cause = migration.cause_of(error, sequence.num_lost) if sequence.grant.replica is not None else None
        if cause is None or sequence.num_lost + 1 >= self._limits.max_engines:
            raise error
        message = replace(
            before,
            # The one before may still be known where it goes, and its frames under way.
            request_id=_unique(sequence.request_id),
            sequence=next(self._numbers),
            output_token_ids=sequence.token_ids.tolist(),
        )
        sequence.go_on(message, sequence.grant.move(cause.loss))
        del self._open[before.sequence]
        self._open[message.sequence] = sequence
        self._report.add(cause, error)

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


def _unique(request_id: str) -> str:
    return f"{request_id}-{uuid.uuid4().hex[:8]}"
