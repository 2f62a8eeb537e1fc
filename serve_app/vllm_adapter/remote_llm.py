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
from vllm.renderers import renderer_from_config
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor

from serve_app.errors import ServiceError, TokensLostError
from serve_app.frame_sockets import FrameReceiver
from serve_app.messages import GenerateRequest
from serve_app.step_frames import AnswerSequence
from serve_app.vllm_adapter import wire

logger = logging.getLogger(__name__)

__all__ = ["RemoteLLM"]

Generate = Callable[[GenerateRequest], Awaitable[int]]

# The reply to a call and its last frame race. Between two machines the frame is there within milliseconds; a
# busy ingress reads both late, but in the same event loop.
LAST_FRAME_TIMEOUT_S = 10.0


class _Call:
    """A request that an engine replica is working on."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.sequence = AnswerSequence()
        self.is_finished = asyncio.Event()


class RemoteEngineCore:
    """What `AsyncLLM` needs of an engine core client, with each request a call to `generate`.

    `generate` returns the length of the answer, whose tokens come to `receiver`.
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
        self._tasks: dict[str, asyncio.Task[None]] = {}
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
        task = asyncio.create_task(self._run(message))
        self._tasks[request.request_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(request.request_id, None))

    async def _run(self, message: GenerateRequest) -> None:
        call = self._open[message.call] = _Call(message.request_id)
        try:
            num_tokens = await self._generate(message)
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
        finally:
            del self._open[message.call]

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
            if task := self._tasks.get(request_id):
                task.cancel()

    async def get_output_async(self) -> EngineCoreOutputs:
        """Everything that has arrived, at once."""
        while True:
            outputs: dict[int, list[EngineCoreOutput]] = {}
            for header, parts in await self._receiver.receive():
                try:
                    decoded = self._decode(parts)
                except msgspec.MsgspecError as error:
                    logger.error("a frame was dropped: %s; do all replicas run the same version?", error)
                    continue
                for call, position, output in zip(header.calls, header.positions, decoded, strict=True):
                    self._accept(call, position, output, outputs)
            if outputs:
                return EngineCoreOutputs(outputs=[o for several in outputs.values() for o in several])

    def _accept(
        self, number: int, position: int, output: EngineCoreOutput, outputs: dict[int, list[EngineCoreOutput]]
    ) -> None:
        call = self._open.get(number)
        if call is None or call.is_finished.is_set():
            return  # cancelled, or failed: the engine has not heard of it yet
        try:
            if not call.sequence.accept(position, len(output.new_token_ids)):
                return
        except TokensLostError as error:
            logger.error("request %s: %s", call.request_id, error)
            self._fail(call.request_id, GracefulHTTPError(str(error), error.status))
            self.cancel([call.request_id])
            return
        if output.finished:
            call.is_finished.set()
        # The engine replica's AsyncLLM has its own internal ids and clock.
        output.request_id = call.request_id
        output.events = None
        arrived = outputs.setdefault(number, [])
        if arrived and (merged := wire.merge(arrived[-1], output)):
            arrived[-1] = merged
        else:
            arrived.append(output)

    def shutdown(self, timeout: float | None = None) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._receiver.close()


class RemoteLLM(AsyncLLM):
    """An `AsyncLLM` whose engine cores are Serve replicas. `arguments` as for `TokenEngine`.

    Needs no accelerator: the config is put together as vLLM's own render server does it
    (`vllm.entrypoints.launchers.render`), without device, scheduler or cache. `check_ready` raises a
    `ServiceError` when there is no engine to send a request to.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        generate: Generate,
        receiver: FrameReceiver,
        check_ready: Callable[[], object],
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
        self.output_processor = OutputProcessor(self.renderer.tokenizer, log_stats=False)
        self._check_ready = check_ready
        self.engine_core = RemoteEngineCore(generate, receiver, self._fail)
        self._run_output_handler()

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """vLLM's handlers call this while the answer can still be a status."""
        try:
            self._check_ready()
        except ServiceError as error:
            raise GracefulHTTPError(str(error), error.status) from error

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
