"""The engine replica's half: an `AsyncLLM`, token ids in, engine core outputs out."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import psutil
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError

from serve_app.config.graph_sizes import DecodeShape
from serve_app.errors import BadRequestError, IngressLostError, ServiceError
from serve_app.stall import MAX_GRAMMAR_WAIT_S, EngineWatch
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameLink, FrameSender
from serve_app.vllm_adapter import canary, wire
from serve_app.vllm_adapter.arguments import with_sections
from serve_app.vllm_adapter.log_files import kept_log_files
from serve_app.vllm_adapter.warming import warm_up
from serve_app.vllm_worker import graph_report, plugin, resumption
from serve_app.warm_up.rounds import Round

# What can be called by name in vLLM's workers.
WORKER_EXTENSION = "serve_app.vllm_worker.graph_report.GraphReport"


@dataclass(slots=True)
class _Answer:
    """A request that is being generated, and where its tokens go."""

    sequence: int
    link: FrameLink[EngineCoreOutput]
    num_tokens: int = 0
    core_id: str = ""
    is_given_up: bool = False
    awaits_grammar: bool = False
    """Whether the engine core has yet to say that its grammar is compiled."""


def new_llm(arguments: Mapping[str, Any]) -> AsyncLLM:
    """Starts vLLM's engine and returns it, with `GraphReport` mixed into its workers.

    Raises `PluginMissingError` where its processes would run vLLM as it is.
    """
    plugin.check_registered(os.environ)
    given = {"worker_extension_cls": WORKER_EXTENSION} | dict(arguments)
    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(**with_sections(given)), usage_context=UsageContext.OPENAI_API_SERVER
    )


class TokenEngine:
    """An `AsyncLLM`: token ids in, step frames with engine core outputs out.

    Must be made inside a running event loop, which vLLM's output handler then uses. Blocks that loop until
    the engine is up (minutes on a GPU). `arguments` are `AsyncEngineArgs` by name, and `new_llm` starts vLLM.
    """

    def __init__(
        self, arguments: Mapping[str, Any], new_llm: Callable[[Mapping[str, Any]], AsyncLLM] = new_llm
    ) -> None:
        with kept_log_files():
            self.llm = new_llm(arguments)
        self.watch = EngineWatch()
        self._sender = FrameSender(wire.new_encoder(), wire.merge)
        self._by_public_id: dict[str, _Answer] = {}
        self._answers: dict[str, _Answer] = {}  # by the id that the engine core knows
        self._get_output = self.llm.engine_core.get_output_async
        # AsyncLLM's output handler looks this up at every step. What it then does itself (statistics,
        # completion) costs little, since nothing is detokenised and nobody is told before the end.
        self.llm.engine_core.get_output_async = self._get_and_send_output

    async def _get_and_send_output(self) -> Any:
        outputs = await self._get_output()
        # Each output has tokens, or is the end of a request; statistics come without any.
        if outputs.outputs:
            self.watch.progress()
        for output in outputs.outputs:
            if answer := self._answers.get(output.request_id) or self._find_answer(output.request_id):
                self._add(answer, output)
        self._sender.flush()
        return outputs

    def _find_answer(self, core_id: str) -> _Answer | None:
        state = self.llm.output_processor.request_states.get(core_id)
        answer = self._by_public_id.get(state.external_req_id) if state else None
        if answer:
            answer.core_id = core_id
            self._answers[core_id] = answer
        return answer

    def _add(self, answer: _Answer, output: EngineCoreOutput) -> None:
        is_error = output.finish_reason is FinishReason.ERROR
        if answer.awaits_grammar and is_error and not output.new_token_ids:
            self._give_up(answer, _no_grammar())
            return
        answer.awaits_grammar = False
        num_tokens = len(output.new_token_ids)
        sent = output
        if output.new_logprobs is not None or output.new_prompt_logprobs_tensors is not None:
            sent = copy.copy(output)
            # AsyncLLM would make objects of them that nobody looks at.
            output.new_logprobs = output.new_prompt_logprobs_tensors = None
        try:
            answer.link.add(answer.sequence, answer.num_tokens, sent, num_tokens)
        except ServiceError as error:
            self._give_up(answer, error)
        else:
            answer.num_tokens += num_tokens

    def _give_up(self, answer: _Answer, error: ServiceError) -> None:
        state = self.llm.output_processor.request_states.get(answer.core_id)
        if state and state.queue and not answer.is_given_up:
            answer.is_given_up = True
            state.queue.put(error)  # `AsyncLLM.generate` raises it and aborts

    async def generate(self, request: GenerateRequest) -> int:
        """Sends `request.reply_to` one output for each engine step, the last with a finish reason.

        Goes on behind `request.output_token_ids`. Returns the number of tokens of the whole answer, once the
        last have been handed to the socket. Cancelling the task aborts the request in the engine.
        Raises vLLM's `VLLMClientError` for a request that vLLM refuses, `EngineDeadError` when the engine
        process has died, `IngressBlockedError` when nobody takes the tokens and `BadRequestError` for a
        grammar that the engine core cannot compile in time. Returns early when the ingress is gone.
        """
        num_tokens = 0
        # With an error for a caller that is dead, Ray holds up other calls of this replica for five seconds.
        with contextlib.suppress(IngressLostError):
            async with self._sender.link(request.reply_to) as link:
                answer = _Answer(request.sequence, link, len(request.output_token_ids))
                try:
                    await self._run(request, answer)
                finally:
                    num_tokens = answer.num_tokens
        return num_tokens

    async def _run(self, request: GenerateRequest, answer: _Answer) -> None:
        self._by_public_id[request.request_id] = answer
        self.watch.begin()
        try:
            await self._generate(request, answer)
        except EngineGenerateError as error:
            if isinstance(error.__cause__, ServiceError):
                raise error.__cause__ from None
            raise
        finally:
            self.watch.end()
            del self._by_public_id[request.request_id]
            self._answers.pop(answer.core_id, None)

    async def _generate(self, request: GenerateRequest, answer: _Answer) -> None:
        params = msgspec.msgpack.decode(request.sampling_params, type=SamplingParams)
        # The grammar of an answer that goes on has been compiled before: another engine may have time for it.
        answer.awaits_grammar = params.structured_outputs is not None and not request.output_token_ids
        # Text is the ingress's business: it detokenises, looks for stop strings and aborts.
        params.detokenize = False
        params.stop = []
        resumption.ask(params, len(request.output_token_ids))
        # One wake-up of this task, at the end; the steps go out by `_get_and_send_output`.
        params.output_kind = RequestOutputKind.FINAL_ONLY
        steps = self.llm.generate(
            tokens_input(request.prompt_token_ids + request.output_token_ids, cache_salt=request.cache_salt),
            params,
            request.request_id,
            priority=request.priority,
            session_id=request.session_id,
            # Grammars are of whole answers, chain of thought included: they hold from the first token.
            reasoning_ended=True,
        )
        try:
            async for _ in steps:
                pass
        finally:
            await steps.aclose()

    async def check_graphs(self, shape: DecodeShape) -> None:
        """Raises `GraphsMissingError` if the largest decode batch would run without a full CUDA graph."""
        for report in await self.llm.collective_rpc("report_graphs"):
            graph_report.check(report, shape)

    async def warm_up(self, rounds: Sequence[Round]) -> None:
        """Generates the rounds and throws them away. Raises what fails: the start must fail with it."""
        await warm_up(self.llm, rounds)

    @property
    def num_unfinished_requests(self) -> int:
        """Requests that the engine is running or holds in its queue."""
        num_requests = self.llm.output_processor.get_num_unfinished_requests()
        return max(num_requests - self.watch.is_canary_running, 0)

    async def ping(self) -> None:
        """Returns when the loop of the engine core has come round: it answers between two steps."""
        await self.llm.is_sleeping()

    async def generate_token(self) -> None:
        """Generates one token, for nobody."""
        await canary.generate_token(self.llm)

    async def check_health(self) -> None:
        """Raises `EngineDeadError` when the engine process has died."""
        await self.llm.check_health()

    def kill(self) -> None:
        """Kills the engine's processes, also those that hang or are stopped and would stay for ever."""
        for process in self.llm.engine_core.resources.engine_manager.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                core = psutil.Process(process.pid)
                for child in [*core.children(recursive=True), core]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()

    def shutdown(self) -> None:
        """Ends the engine process."""
        self.llm.shutdown()
        self._sender.close()


def _no_grammar() -> BadRequestError:
    return BadRequestError(
        "the grammar of the answer (its schema, pattern or structural tag) could not be compiled within "
        f"{MAX_GRAMMAR_WAIT_S:.0f} s",
        None,
    )
