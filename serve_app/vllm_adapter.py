"""Everything this project takes from inside vLLM 0.29, and nothing else imports vLLM.

Two halves, which meet at the engine core's own messages:

- `TokenEngine`, in an engine replica: an `AsyncLLM` that hands out what its engine core produced for a
  request, step by step (token ids, logprobs, finish reason), without turning it into text.
- `RemoteLLM`, in an ingress: an `AsyncLLM` whose engine core is somewhere else. Rendering, validation,
  `n > 1`, detokenising, stop strings, logprobs and output kinds are therefore vLLM's own code, and the
  serving handlers added by `attach_api` behave as they do in `vllm serve`.

vLLM's internals move between releases. `tests/app/test_equality.py` compares the result with `vllm serve`.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import logging
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
from fastapi import FastAPI
from msgspec.structs import replace
from vllm import AsyncEngineArgs, SamplingParams, envs
from vllm import __version__ as vllm_version
from vllm.config import VllmConfig
from vllm.config.utils import hash_factors
from vllm.entrypoints.anthropic.api_router import attach_router as attach_messages
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.api_router import attach_router as attach_chat
from vllm.entrypoints.openai.completion.api_router import attach_router as attach_completions
from vllm.entrypoints.openai.models.api_router import attach_router as attach_models
from vllm.entrypoints.openai.responses.api_router import attach_router as attach_responses
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.instrumentator.basic import show_version
from vllm.entrypoints.serve.tokenize.api_router import attach_router as attach_tokenize
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.renderers import renderer_from_config
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor

from serve_app.errors import ServiceError
from serve_app.messages import GenerateRequest

logger = logging.getLogger(__name__)

# A few steps of prefill and decode each; with three draft tokens, 16 tokens take at least four steps.
WARM_UP_PROMPT_TOKENS = 64
WARM_UP_TOKENS = 16
# What `vllm serve` needs to be told for gpt-oss; the reasoning parser is an engine argument.
TOOL_PARSER = "openai"

# Besides vLLM and torch, what compiles kernels or is compiled against; those that are installed count.
COMPILING_PACKAGES = (
    "triton",
    "flashinfer-python",
    "flashinfer-cubin",
    "nvidia-cutlass-dsl",
    "quack-kernels",
    "apache-tvm-ffi",
    "tilelang",
)

__all__ = [
    "EngineDeadError",
    "RemoteLLM",
    "TokenEngine",
    "VLLMClientError",
    "argument_names",
    "attach_api",
    "compiler_factors",
]


def argument_names() -> frozenset[str]:
    """The names that `engine_overrides` may use: the fields of vLLM's `AsyncEngineArgs`."""
    return frozenset(field.name for field in dataclasses.fields(AsyncEngineArgs))


def compiler_factors() -> dict[str, Any]:
    """What compiled code depends on besides engine arguments and host: versions, device, vLLM's switches.

    Asks the driver through NVML: a CUDA context in this process would take memory from the engine's.
    """
    factors: dict[str, Any] = {
        "vllm": vllm_version,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "device": current_platform.get_device_name(),
        "capability": str(current_platform.get_device_capability()),
        "packages": {name: _version(name) for name in COMPILING_PACKAGES},
        # Of the environment, what vLLM itself takes into account.
        "switches": hash_factors(envs.compile_factors()),
    }
    if current_platform.is_cuda():
        from vllm.third_party import pynvml

        pynvml.nvmlInit()
        factors["driver"] = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    return factors


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- engine replica ------------------------------------------------------------------------------------


class TokenEngine:
    """An `AsyncLLM`: token ids in, engine core outputs out.

    Must be made inside a running event loop, which vLLM's output handler then uses. Blocks that loop until
    the engine is up (minutes on a GPU). `arguments` are `AsyncEngineArgs` by name.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        engine_args = AsyncEngineArgs(**arguments)
        self.llm = AsyncLLM.from_engine_args(engine_args, usage_context=UsageContext.OPENAI_API_SERVER)
        self._core_outputs: dict[str, list[EngineCoreOutput]] = {}
        self._process_outputs = self.llm.output_processor.process_outputs
        # AsyncLLM's output handler looks this up on the processor at every step. Its own processing goes
        # on (statistics, completion, stop conditions), but costs little: nothing is detokenised here.
        self.llm.output_processor.process_outputs = self._tap

    def _tap(self, outputs: list[EngineCoreOutput], *args: Any) -> Any:
        states = self.llm.output_processor.request_states
        for output in outputs:
            if state := states.get(output.request_id):
                # The list is copied because vLLM extends it in place when it merges unread outputs.
                core_output = replace(output, new_token_ids=output.new_token_ids.copy())
                self._core_outputs[state.external_req_id].append(core_output)
        return self._process_outputs(outputs, *args)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[EngineCoreOutput]]:
        """Yields what the engine core produced since the last time: one output for each engine step, the
        last with a finish reason.

        Leaving the generator, or cancelling its task, aborts the request in the engine.
        Raises vLLM's `VLLMClientError` for a request that vLLM refuses and `EngineDeadError` when the engine
        process has died.
        """
        params = msgspec.msgpack.decode(request.sampling_params, type=SamplingParams)
        # Text is the ingress's business: it detokenises, looks for stop strings and aborts.
        params.detokenize = False
        params.stop = []
        params.output_kind = RequestOutputKind.DELTA
        outputs = self._core_outputs[request.request_id] = []
        steps = self.llm.generate(
            tokens_input(request.prompt_token_ids, cache_salt=request.cache_salt),
            params,
            request.request_id,
            trace_headers=request.trace_headers,
            priority=request.priority,
            session_id=request.session_id,
            reasoning_ended=request.reasoning_ended,
            reasoning_parser_kwargs=request.reasoning_parser_kwargs,
        )
        try:
            async for _ in steps:
                new, outputs[:] = outputs[:], []
                yield new
        finally:
            del self._core_outputs[request.request_id]
            await steps.aclose()

    async def warm_up(self, num_requests: int) -> None:
        """Generates, alone and then `num_requests` at once, greedily and sampling, and throws it away.

        vLLM compiles kernels for shapes that it meets first in a request, for seconds each on a GPU. Ready
        must mean that the usual ones are there.
        """
        for batch in (1, num_requests):
            await asyncio.gather(*(self._warm_up_request(batch, index) for index in range(batch)))
        await self.llm.reset_prefix_cache()

    async def _warm_up_request(self, batch: int, index: int) -> None:
        request = GenerateRequest(
            request_id=f"warm-up-{batch}-{index}",
            # Ordinary text tokens, different in each request so that none comes from the prefix cache.
            prompt_token_ids=[1000 + batch + (index * 31 + i) % 5000 for i in range(WARM_UP_PROMPT_TOKENS)],
            sampling_params=msgspec.msgpack.encode(
                SamplingParams(max_tokens=WARM_UP_TOKENS, ignore_eos=True, temperature=float(index % 2))
            ),
        )
        async for _ in self.generate(request):
            pass

    @property
    def num_unfinished_requests(self) -> int:
        """Requests that the engine is running or holds in its queue."""
        return self.llm.output_processor.get_num_unfinished_requests()

    async def check_health(self) -> None:
        """Raises `EngineDeadError` when the engine process has died."""
        await self.llm.check_health()

    def shutdown(self) -> None:
        """Ends the engine process."""
        self.llm.shutdown()


# --- ingress -------------------------------------------------------------------------------------------

Generate = Callable[[GenerateRequest], AsyncGenerator[list[EngineCoreOutput]]]


class RemoteEngineCore:
    """What `AsyncLLM` needs of an engine core client, with each request a call to `generate`."""

    def __init__(self, generate: Generate, fail: Callable[[str, Exception], None]) -> None:
        self._generate = generate
        self._fail = fail
        self._outputs: asyncio.Queue[EngineCoreOutput] = asyncio.Queue()
        self._calls: dict[str, asyncio.Task[None]] = {}
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
            priority=request.priority,
            cache_salt=request.cache_salt,
            session_id=request.session_id,
            trace_headers=dict(request.trace_headers) if request.trace_headers else None,
            reasoning_ended=request.reasoning_ended,
            reasoning_parser_kwargs=request.reasoning_parser_kwargs,
        )
        task = asyncio.create_task(self._relay(message))
        self._calls[request.request_id] = task
        task.add_done_callback(lambda _: self._calls.pop(request.request_id, None))

    async def _relay(self, message: GenerateRequest) -> None:
        call = self._generate(message)
        is_finished = False
        try:
            async for outputs in call:
                for output in outputs:
                    # The engine replica's AsyncLLM has its own internal ids and clock.
                    output.request_id = message.request_id
                    output.events = None
                    is_finished |= output.finished
                    self._outputs.put_nowait(output)
            if not is_finished:
                raise RuntimeError("the answer ended without a finish reason")
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
            await call.aclose()

    async def abort_requests_async(self, request_ids: Iterable[str]) -> None:
        self.cancel(request_ids)

    def cancel(self, request_ids: Iterable[str]) -> None:
        """Cancels the calls of these requests; those that have ended are passed over."""
        for request_id in request_ids:
            if task := self._calls.get(request_id):
                task.cancel()

    async def get_output_async(self) -> EngineCoreOutputs:
        """Everything that has arrived, at once."""
        outputs = [await self._outputs.get()]
        while not self._outputs.empty():
            outputs.append(self._outputs.get_nowait())
        return EngineCoreOutputs(outputs=outputs)

    def shutdown(self, timeout: float | None = None) -> None:
        for task in self._calls.values():
            task.cancel()


class RemoteLLM(AsyncLLM):
    """An `AsyncLLM` whose engine cores are Serve replicas. `arguments` as for `TokenEngine`.

    Needs no accelerator: the config is put together as vLLM's own render server does it
    (`vllm.entrypoints.launchers.render`), without device, scheduler or cache. `check_ready` raises a
    `ServiceError` when there is no engine to send a request to.
    """

    def __init__(
        self, arguments: Mapping[str, Any], generate: Generate, check_ready: Callable[[], object]
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
        self.engine_core = RemoteEngineCore(generate, self._fail)
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


async def attach_api(app: FastAPI, engine: RemoteLLM, model_path: str, served_names: Iterable[str]) -> None:
    """Adds the OpenAI and Anthropic routes of `vllm serve` over `engine`, with vLLM's error bodies, to `app`.

    Left out on purpose: what administers one engine process (LoRA, profiling, scaling, sleep), SageMaker's
    routes and the token-level ones.
    """
    args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.model = model_path
    args.served_model_name = list(served_names)
    args.enable_auto_tool_choice = True
    args.tool_call_parser = TOOL_PARSER
    args.structured_outputs_config.reasoning_parser = (
        engine.vllm_config.structured_outputs_config.reasoning_parser
    )

    app.state.args = args
    app.state.server = None  # vLLM's error handler would stop a uvicorn server of its own here
    for attach in (
        attach_models,
        attach_chat,
        attach_completions,
        attach_responses,
        attach_messages,
        attach_tokenize,
    ):
        attach(app)
    app.add_api_route("/version", show_version)
    init_exception_handler(app)
    await init_app_state(engine, app.state, args, ("generate",))
    messages = app.state.anthropic_serving_messages
    messages.message_stream_converter = partial(_message_events, messages.message_stream_converter)


async def _message_events(
    convert: Callable[[AsyncGenerator[str]], AsyncGenerator[str]], chunks: AsyncGenerator[str]
) -> AsyncGenerator[str]:
    """Yields Anthropic's events for the chat stream `chunks`, and an error as an error.

    vLLM's converter takes an error of the chat stream for a malformed chunk, and tells the client of that.
    """
    error: str | None = None

    async def until_error() -> AsyncGenerator[str]:
        nonlocal error
        async for chunk in chunks:
            if chunk.startswith('data: {"error"'):
                error = chunk.removeprefix("data: ")
                return
            yield chunk

    async for event in convert(until_error()):
        yield event
    if error:
        yield f"event: error\ndata: {json.dumps({'type': 'error', **json.loads(error)})}\n\n"
