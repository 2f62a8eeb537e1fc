"""The ingress's half: an `AsyncLLM` whose engine cores are Serve replicas."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from itertools import count
from types import SimpleNamespace
from typing import Any

import msgspec
from vllm import AsyncEngineArgs
from vllm.config import VllmConfig
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs import EngineInput
from vllm.outputs import RequestOutput
from vllm.renderers import renderer_from_config
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector

from serve_app.errors import ServiceError, SlowClientError, TokensLostError
from serve_app.frame_sockets import FrameReceiver
from serve_app.messages import GenerateRequest
from serve_app.pace import Pace
from serve_app.step_frames import AnswerSequence
from serve_app.vllm_adapter import wire
from serve_app.vllm_adapter.token_stream import Generation, TokenStream

logger = logging.getLogger(__name__)

__all__ = ["RemoteLLM"]

Generate = Callable[[GenerateRequest, AnswerSequence], Awaitable[int]]

# The reply to a call and its last frame race. Between two machines the frame is there within milliseconds; a
# busy ingress reads both late, but in the same event loop.
LAST_FRAME_TIMEOUT_S = 30.0


class _Call:
    """A request that an engine replica is working on."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.sequence = AnswerSequence()
        self.is_finished = asyncio.Event()
        self.task: asyncio.Task[None]
        self.has_begun = False
        self.stream: TokenStream | None = None


class RemoteEngineCore:
    """What `AsyncLLM` needs of an engine core client, with each request a call to `generate`.

    `generate` returns the length of the answer, whose tokens come to `receiver`, and may see how many have.
    """

    def __init__(
        self, generate: Generate, receiver: FrameReceiver, fail: Callable[[str, Exception], None]
    ) -> None:
        self._generate = generate
        self._receiver = receiver
        self._fail = fail
        self._decode = wire.new_decoder()
        self._numbers = count()
        self._open: dict[int, _Call] = {}
        self.calls: dict[str, _Call] = {}
        # One engine replica's death is an error of the requests on it, never of the client.
        self.resources = SimpleNamespace(engine_dead=False)

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        assert request.prompt_token_ids is not None
        message = GenerateRequest(
            request_id=request.request_id,
            prompt_token_ids=request.prompt_token_ids,
            sampling_params=msgspec.msgpack.encode(request.sampling_params),
            reply_to=self._receiver.address,
            call=next(self._numbers),
            priority=request.priority,
            cache_salt=request.cache_salt,
            session_id=request.session_id,
            trace_headers=dict(request.trace_headers) if request.trace_headers else None,
            reasoning_ended=request.reasoning_ended,
            reasoning_parser_kwargs=request.reasoning_parser_kwargs,
        )
        call = self.calls[request.request_id] = self._open[message.call] = _Call(request.request_id)
        call.task = asyncio.create_task(self._run(call, message))
        call.task.add_done_callback(lambda _: self._forget(message))

    def _forget(self, message: GenerateRequest) -> None:
        del self._open[message.call], self.calls[message.request_id]

    async def _run(self, call: _Call, message: GenerateRequest) -> None:
        try:
            num_tokens = await self._generate(message, call.sequence)
            await self._wait_for_the_end(call, num_tokens)
        except ServiceError as error:
            self._fail(message.request_id, GracefulHTTPError(str(error), error.status))
        except VLLMClientError as error:
            self._fail(message.request_id, error)
        except Exception as error:
            # The last stop before the client: whatever it is, one request fails and the others go on.
            logger.exception("request %s failed in its engine replica", message.request_id)
            self._fail(
                message.request_id,
                GracefulHTTPError(f"engine failure: {error}", HTTPStatus.INTERNAL_SERVER_ERROR),
            )

    async def _wait_for_the_end(self, call: _Call, num_tokens: int) -> None:
        try:
            async with asyncio.timeout(LAST_FRAME_TIMEOUT_S):
                await call.is_finished.wait()
        except TimeoutError:
            raise TokensLostError(
                f"of {num_tokens} tokens of the answer, {call.sequence.num_tokens} have arrived, and no end; "
                "the request can be sent again"
            ) from None

    async def abort_requests_async(self, request_ids: Iterable[str]) -> None:
        self.cancel(request_ids)

    def cancel(self, request_ids: Iterable[str]) -> None:
        """Cancels the calls of these requests; those that have ended are passed over."""
        for request_id in request_ids:
            if call := self.calls.get(request_id):
                call.task.cancel()

    async def get_output_async(self) -> EngineCoreOutputs:
        """What has arrived and is not for a `TokenStream` alone."""
        while True:
            arrived: dict[_Call, list[EngineCoreOutput]] = {}
            for header, parts in await self._receiver.receive():
                try:
                    decoded = self._decode(parts)
                except msgspec.MsgspecError as error:
                    logger.error("a frame was dropped: %s; do all replicas run the same version?", error)
                    continue
                for number, position, output in zip(header.calls, header.positions, decoded, strict=True):
                    call = self._open.get(number)
                    if call and self._is_next(call, position, output):
                        _append(arrived.setdefault(call, []), output)
            outputs: list[EngineCoreOutput] = []
            for call, several in arrived.items():
                # The first one tells vLLM's output processor that the answer has begun.
                if call.stream and call.has_begun and wire.is_plain(several[0]):
                    call.stream.push(several.pop(0).new_token_ids)
                call.has_begun = True
                for output in several:
                    # The engine replica's AsyncLLM has its own internal ids and clock.
                    output.request_id = call.request_id
                    output.events = None
                    outputs.append(output)
            if outputs:
                return EngineCoreOutputs(outputs=outputs)

    def _is_next(self, call: _Call, position: int, output: EngineCoreOutput) -> bool:
        if call.is_finished.is_set():
            return False
        try:
            if not call.sequence.accept(position, len(output.new_token_ids)):
                return False
        except TokensLostError as error:
            self.give_up(call.request_id, error)
            return False
        if output.finished:
            call.is_finished.set()
        return True

    def give_up(self, request_id: str, error: ServiceError) -> None:
        """Ends a request with an error, here and in its engine."""
        logger.error("request %s: %s", request_id, error)
        self._fail(request_id, GracefulHTTPError(str(error), error.status))
        self.cancel([request_id])

    def shutdown(self, timeout: float | None = None) -> None:
        for call in self.calls.values():
            call.task.cancel()
        self._receiver.close()


def _append(outputs: list[EngineCoreOutput], output: EngineCoreOutput) -> None:
    """Appends an output of a request to those before it, or merges it with the last of them."""
    if outputs and (merged := wire.merge(outputs[-1], output)):
        outputs[-1] = merged
    else:
        outputs.append(output)


class _BoundedOutputProcessor(OutputProcessor):
    """Tells `on_overflow` of answers of which the handler has left more than `max_unread_tokens` unread."""

    max_unread_tokens: int
    on_overflow: Callable[[str], None]

    def process_outputs(self, engine_core_outputs: list[EngineCoreOutput], *args: Any) -> Any:
        processed = super().process_outputs(engine_core_outputs, *args)
        for output in engine_core_outputs:
            state = self.request_states.get(output.request_id)
            if state is None or not isinstance(state.queue, RequestOutputCollector):
                continue
            unread = state.queue.output
            if not state.queue.aggregate or not isinstance(unread, RequestOutput):
                continue
            if sum(len(choice.token_ids) for choice in unread.outputs) > self.max_unread_tokens:
                self.on_overflow(output.request_id)
        return processed


class RemoteLLM(AsyncLLM):
    """An `AsyncLLM` whose engine cores are Serve replicas. `arguments` as for `TokenEngine`.

    Needs no accelerator: the config is put together as vLLM's own render server does it
    (`vllm.entrypoints.launchers.render`), without device, scheduler or cache.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        generate: Generate,
        receiver: FrameReceiver,
        max_unread_tokens: int,
        max_chunks_per_second: float | None,
    ) -> None:
        # Deliberately not AsyncLLM.__init__, which starts an engine process.
        engine_args = AsyncEngineArgs(**arguments)
        engine_args._set_default_reasoning_config_args()
        model_config = engine_args.create_model_config()
        model_config.quantization = None  # kernels that this process never runs would be checked for
        structured_outputs = copy.copy(engine_args.structured_outputs_config)
        structured_outputs.reasoning_parser = engine_args.reasoning_parser
        self.vllm_config = VllmConfig(
            model_config=model_config,
            structured_outputs_config=structured_outputs,
            reasoning_config=engine_args.reasoning_config,
        )
        self.model_config = model_config
        self.scheduler_config = self.vllm_config.scheduler_config
        self.observability_config = self.vllm_config.observability_config
        self.log_requests = False
        self.log_stats = False
        self.logger_manager = None
        self.profiler = None
        self.output_handler = None
        self._client_count = 1
        self.renderer = renderer_from_config(self.vllm_config)
        self.input_processor = InputProcessor(self.vllm_config, self.renderer)
        self.output_processor = _BoundedOutputProcessor(self.renderer.tokenizer, log_stats=False)
        self.output_processor.max_unread_tokens = self._max_unread_tokens = max_unread_tokens
        self.output_processor.on_overflow = self._on_overflow
        self._max_chunks_per_second = max_chunks_per_second
        self.engine_core = RemoteEngineCore(generate, receiver, self._fail)
        self._run_output_handler()

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """vLLM's handlers ask this too late: the gate has admitted the request before it was rendered."""

    def generate(
        self, prompt: EngineInput, sampling_params: SamplingParams, request_id: str, **named: Any
    ) -> Generation:
        """As in vLLM. Handlers that need no text can take the tokens instead of iterating."""
        return Generation(
            lambda: AsyncLLM.generate(self, prompt, sampling_params, request_id, **named),
            lambda: self._open_stream(prompt, sampling_params, request_id, **named),
            Pace(self._max_chunks_per_second),
        )

    async def _open_stream(
        self, prompt: EngineInput, sampling_params: SamplingParams, request_id: str, **named: Any
    ) -> TokenStream:
        sampling_params.detokenize = False
        queue = await self.add_request(request_id, prompt, sampling_params, **named)
        core_id = queue.request_id
        stream = TokenStream(
            self._max_unread_tokens,
            lambda: self._on_overflow(core_id),
            lambda: self.abort(core_id, internal=True),
        )
        # Nothing can have arrived: the call is a task that has not run yet.
        self.output_processor.request_states[core_id].queue = stream
        self.engine_core.calls[core_id].stream = stream
        return stream

    def _on_overflow(self, request_id: str) -> None:
        error = SlowClientError(
            f"the client has left more than {self._max_unread_tokens} tokens of its stream unread, "
            "and generation was stopped"
        )
        self.engine_core.give_up(request_id, error)

    def _fail(self, request_id: str, error: Exception) -> None:
        state = self.output_processor.request_states.get(request_id)
        if state is None:
            return
        # With n > 1 all choices fail together; vLLM's `generate` would leave the others running.
        family = state.parent_req.request_id if state.parent_req else request_id
        aborted = self.output_processor.abort_requests([family], internal=True)
        self.engine_core.cancel(other for other in aborted if other != request_id)
        if state.queue is not None:
            state.queue.put(error)  # takes the place of the abort's own output
