"""The replica's half of the adapter, over a script in place of `AsyncLLM`: vLLM's structs, real sockets."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest

from serve_app.config.graph_sizes import DecodeShape
from serve_app.errors import BadRequestError, IngressBlockedError, ServiceError
from serve_app.transport import connections, sockets
from serve_app.transport.requests import GenerateRequest
from serve_app.transport.sockets import FrameReceiver
from serve_app.vllm_worker import resumption
from serve_app.vllm_worker.graph_report import GraphsMissingError

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's

ARGUMENTS = {"model": "/model"}


@pytest.fixture(scope="module", autouse=True)
def _vllm() -> None:
    """Imported before a test begins to wait for something."""
    importlib.import_module("serve_app.vllm_adapter")


class Queue:
    """In place of vLLM's `RequestOutputCollector`: what ends the request's generator."""

    def __init__(self) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(self, error: Exception) -> None:
        if not self.end.done():
            self.end.set_exception(error)


class Core:
    """In place of the client of vLLM's engine core."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()
        self.resources = SimpleNamespace(engine_manager=SimpleNamespace(processes=[]))

    async def get_output_async(self) -> Any:
        return await self.steps.get()


class Llm:
    """In place of an `AsyncLLM`: requests run until a step says that they end."""

    def __init__(self) -> None:
        self.engine_core = Core()
        states: dict[str, Any] = {}
        self.output_processor = SimpleNamespace(
            request_states=states, get_num_unfinished_requests=lambda: len(states)
        )
        self.requests: list[Any] = []
        self.aborted: list[str] = []
        self.seen: list[Any] = []
        self.reports: list[dict[str, Any]] = []
        self.dead: Exception | None = None
        self.is_down = False
        self.num_pings = 0
        self._handler: asyncio.Task[None] | None = None

    async def generate(self, prompt: Any, params: Any, request_id: str, **options: Any) -> AsyncIterator[int]:
        self.requests.append((prompt, params, request_id, options))
        # AsyncLLM starts its output handler with the first request.
        self._handler = self._handler or asyncio.create_task(self._handle())
        core_id = f"{request_id}-core"  # vLLM adds to the id that it is given
        queue = Queue()
        self.output_processor.request_states[core_id] = SimpleNamespace(
            external_req_id=request_id, queue=queue
        )
        try:
            await queue.end
            yield 1
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        except ServiceError as error:
            from vllm.v1.engine.exceptions import EngineGenerateError

            self.aborted.append(request_id)
            raise EngineGenerateError from error
        finally:
            self.output_processor.request_states.pop(core_id, None)

    async def _handle(self) -> None:
        states = self.output_processor.request_states
        try:
            while True:
                outputs = await self.engine_core.get_output_async()
                self.seen += outputs.outputs
                for output in outputs.outputs:
                    state = states.get(output.request_id)
                    if state and output.finish_reason is not None:
                        state.queue.end.set_result(None)
        except Exception as error:  # as in AsyncLLM: what fails here fails all requests
            for state in states.values():
                state.queue.put(error)

    async def collective_rpc(self, method: str) -> list[dict[str, Any]]:
        assert method == "report_graphs"
        return self.reports

    async def is_sleeping(self) -> bool:
        self.num_pings += 1
        return False

    async def check_health(self) -> None:
        if self.dead:
            raise self.dead

    def shutdown(self) -> None:
        self.is_down = True
        if self._handler:
            self._handler.cancel()


class Harness:
    """A `TokenEngine`, and the ingress that its tokens go to."""

    def __init__(self) -> None:
        from serve_app.vllm_adapter import TokenEngine
        from serve_app.vllm_adapter.wire import new_decoder

        self.llm = Llm()
        self.arguments: Any = None
        self.engine = TokenEngine(ARGUMENTS, self._new_llm)
        self.receiver = FrameReceiver("127.0.0.1")
        self._decode = new_decoder()

    def _new_llm(self, arguments: Any) -> Llm:
        self.arguments = arguments
        return self.llm

    def request(self, number: int = 0, **fields: Any) -> GenerateRequest:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=9, stop=["stop"], temperature=0.5, **fields.pop("params", {}))
        return GenerateRequest(
            request_id=f"r{number}",
            prompt_token_ids=[1, 2, 3],
            sampling_params=msgspec.msgpack.encode(params),
            reply_to=self.receiver.address,
            sequence=number,
            **fields,
        )

    async def generate(self, *numbers: int) -> list[asyncio.Task[int]]:
        """Begins requests, and returns when the engine has them."""
        tasks = [asyncio.create_task(self.engine.generate(self.request(number))) for number in numbers]
        await self.begun(len(numbers))
        return tasks

    async def begun(self, number: int) -> list[str]:
        """The ids by which the engine knows its requests, when it has so many."""
        while len(self.llm.output_processor.request_states) < number:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return list(self.llm.output_processor.request_states)

    def step(self, *outputs: Any) -> None:
        from vllm.v1.engine import EngineCoreOutputs

        self.llm.engine_core.steps.put_nowait(EngineCoreOutputs(outputs=list(outputs)))

    async def frame(self) -> list[tuple[int, int, Any]]:
        """The outputs of the frames that come next, with sequence and position."""
        return [
            found
            for header, parts in await self.receiver.receive()
            for found in zip(header.sequences, header.positions, self._decode(parts), strict=True)
        ]


def output(number: int, *tokens: int, ends: bool = False, **fields: Any) -> Any:
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    reason = FinishReason.STOP if ends else None
    return EngineCoreOutput(f"r{number}-core", list(tokens), finish_reason=reason, **fields)


@asynccontextmanager
async def harness() -> AsyncIterator[Harness]:
    made = Harness()
    try:
        yield made
    finally:
        made.engine.shutdown()
        made.receiver.close()


async def test_tokens_go_out_step_by_step() -> None:
    async with harness() as one:
        [task] = await one.generate(7)
        one.step(output(7, 11, 12))
        [(sequence, position, first)] = await one.frame()
        assert (sequence, position, first.new_token_ids) == (7, 0, [11, 12])
        one.step(output(7, 13))
        [(_, position, second)] = await one.frame()
        assert (position, second.new_token_ids, second.finish_reason) == (2, [13], None)
        one.step(output(7, 14, ends=True, stop_reason=200002))
        [(_, position, last)] = await one.frame()
        assert (position, last.new_token_ids, last.stop_reason) == (3, [14], 200002)
        assert await task == 4


async def test_a_step_is_one_frame_for_all_sequences_of_an_ingress() -> None:
    async with harness() as one:
        tasks = await one.generate(1, 2)
        one.step(output(1, 11), output(2, 21, 22), output(3, 31))
        assert [(number, position) for number, position, _ in await one.frame()] == [(1, 0), (2, 0)]
        one.step(output(1, ends=True), output(2, 23, ends=True))
        assert [(number, position) for number, position, _ in await one.frame()] == [(1, 1), (2, 2)]
        assert await asyncio.gather(*tasks) == [1, 3]
        # What nobody here has asked for stays with vLLM.
        assert len(one.llm.seen) == 5


async def test_what_vllm_is_asked_for() -> None:
    async with harness() as one:
        request = one.request(5, cache_salt="salt", priority=3, session_id="s")
        task = asyncio.create_task(one.engine.generate(request))
        while not one.llm.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        [(prompt, params, request_id, options)] = one.llm.requests
        assert (prompt["prompt_token_ids"], prompt["cache_salt"], request_id) == ([1, 2, 3], "salt", "r5")
        # Text is the ingress's business.
        assert (params.detokenize, params.stop, params.temperature, params.max_tokens) == (False, [], 0.5, 9)
        assert options == {"priority": 3, "session_id": "s", "reasoning_ended": True}
        assert one.arguments == ARGUMENTS
        one.step(output(5, ends=True))
        assert await task == 0


async def test_an_answer_goes_on_behind_what_there_is_of_it() -> None:
    async with harness() as one:
        request = one.request(5, output_token_ids=[11, 12], params={"prompt_logprobs": 1})
        task = asyncio.create_task(one.engine.generate(request))
        while not one.llm.requests:  # noqa: ASYNC110
            await asyncio.sleep(0)
        [(prompt, params, _, _)] = one.llm.requests
        assert prompt["prompt_token_ids"] == [1, 2, 3, 11, 12]
        assert params.extra_args == {resumption.NUM_OUTPUT_TOKENS: 2}
        assert params.max_tokens == 9  # of the whole answer
        # The first engine has sent them.
        assert params.prompt_logprobs is None
        assert not params.skip_reading_prefix_cache
        one.step(output(5, 13))
        assert [position for _, position, _ in await one.frame()] == [2]
        one.step(output(5, 14, ends=True))
        assert [position for _, position, _ in await one.frame()] == [3]
        assert await task == 4


async def test_log_probabilities_go_to_the_ingress_and_not_to_vllms_own_output() -> None:
    import numpy
    from vllm.v1.outputs import LogprobsLists

    logprobs = LogprobsLists(
        numpy.array([[11, 12]], dtype=numpy.int32),
        numpy.array([[-0.5, -1.0]], dtype=numpy.float32),
        numpy.array([1], dtype=numpy.int32),
        None,
    )
    async with harness() as one:
        [task] = await one.generate(0)
        one.step(output(0, 11, new_logprobs=logprobs), output(9, 1))
        [(_, _, sent)] = await one.frame()
        assert sent.new_logprobs.logprob_token_ids.tolist() == [[11, 12]]
        assert one.llm.seen[0].new_logprobs is None
        one.step(output(0, ends=True))
        await task


async def test_cancelling_a_call_aborts_the_request() -> None:
    async with harness() as one:
        [first, second] = await one.generate(1, 2)
        one.step(output(1, 11), output(2, 21))
        await one.frame()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert one.llm.aborted == ["r1"]
        assert one.engine.num_unfinished_requests == 1
        # A step that was on its way brings nobody down, and is not sent.
        one.step(output(1, 12), output(2, 22, ends=True))
        assert [number for number, _, _ in await one.frame()] == [2]
        assert await second == 2


async def test_accounts_are_even_in_the_end() -> None:
    async with harness() as one:
        tasks = await one.generate(1, 2, 3)
        assert one.engine.watch.num_running == 3
        one.step(output(1, 11), output(2, 21, ends=True))
        await one.frame()
        tasks[0].cancel()
        one.llm.output_processor.request_states["r3-core"].queue.put(RuntimeError("broken"))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, int, RuntimeError]
        assert one.engine.watch.num_running == 0
        assert one.engine.num_unfinished_requests == 0
        # Nothing is kept of any of them: the address may be asked for again, by all.
        [link] = one.engine._sender._links.values()
        assert link.num_sequences == 0
        assert not one.engine._answers
        assert not one.engine._by_public_id


async def test_the_same_id_may_come_again() -> None:
    async with harness() as one:
        for _ in range(2):
            [task] = await one.generate(4)
            one.step(output(4, 11, ends=True))
            [(_, position, _)] = await one.frame()
            assert position == 0
            assert await task == 1


async def test_an_ingress_that_is_gone_ends_its_requests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RECONNECT_S", 0.3)
    async with harness() as one:
        gone = FrameReceiver("127.0.0.1")
        requests = [msgspec.structs.replace(one.request(n), reply_to=gone.address) for n in (1, 2)]
        lost = [asyncio.create_task(one.engine.generate(request)) for request in requests]
        await one.begun(2)
        [stays] = await one.generate(3)
        await one.begun(3)
        # One has begun, and the other has had no step yet: it waits for its turn.
        one.step(output(1, 11), output(3, 31))
        await gone.receive()
        gone.close()
        # An error would hold up others: Ray looks for the one who is to get it.
        assert await asyncio.gather(*lost) == [1, 0]
        assert sorted(one.llm.aborted) == ["r1", "r2"]
        assert (one.engine.num_unfinished_requests, one.engine.watch.num_running) == (1, 1)
        one.step(output(1, 12), output(3, 32, ends=True))
        assert await stays == 2


async def test_an_ingress_that_does_not_read_ends_its_requests_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "MAX_WAITING_TOKENS", 2)
    async with harness() as one:
        [task] = await one.generate(0)
        [link] = one.engine._sender._links.values()
        monkeypatch.setattr(link, "flush", lambda: None)  # what is added waits
        for _ in range(3):
            one.step(output(0, 11, 12))
        with pytest.raises(IngressBlockedError, match="tokens wait for it"):
            await task
        assert one.llm.aborted == ["r0"]


async def test_a_dead_engine_is_said_to_be_dead() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    async with harness() as one:
        [first, second] = await one.generate(1, 2)
        states = one.llm.output_processor.request_states
        states["r1-core"].queue.put(EngineDeadError())
        # What vLLM makes of an error that is not of this service stays as it is.
        states["r2-core"].queue.put(EngineGenerateError("of vLLM"))
        with pytest.raises(EngineDeadError):
            await first
        with pytest.raises(EngineGenerateError, match="of vLLM"):
            await second
        one.llm.dead = EngineDeadError()
        with pytest.raises(EngineDeadError):
            await one.engine.check_health()


async def test_what_comes_quiets_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with harness() as one:
        seen: list[str] = []
        [task] = await one.generate(0)
        monkeypatch.setattr(one.engine.watch, "progress", lambda: seen.append("progress"))
        one.step(output(0, 11))
        await one.frame()
        assert seen == ["progress"]
        one.step()  # statistics alone
        one.step(output(0, ends=True))  # an end without tokens
        await task
        assert seen == ["progress"] * 2


async def test_a_ping_is_answered_by_the_engine_core() -> None:
    async with harness() as one:
        await one.engine.ping()
        assert one.llm.num_pings == 1


async def test_a_canary_is_one_token_after_all_others_and_no_request_of_anybody() -> None:
    async with harness() as one:
        canary = asyncio.create_task(one.engine.generate_token())
        one.engine.watch.begin_canary(canary.cancel)
        assert one.engine.num_unfinished_requests == 0  # it has not begun
        [core_id] = await one.begun(1)
        assert one.engine.num_unfinished_requests == 0
        [(prompt, params, request_id, options)] = one.llm.requests
        assert (len(prompt["prompt_token_ids"]), params.max_tokens, params.ignore_eos) == (3, 1, True)
        assert options["priority"] > 1_000_000
        [task] = await one.generate(0)
        with pytest.raises(asyncio.CancelledError):
            await canary
        assert one.llm.aborted == [request_id] == [core_id.removesuffix("-core")]
        one.engine.watch.end_canary()
        one.step(output(0, ends=True))
        await task
        # The next one comes to its end.
        canary = asyncio.create_task(one.engine.generate_token())
        [core_id] = await one.begun(1)
        from vllm.v1.engine import EngineCoreOutput, FinishReason

        one.step(EngineCoreOutput(core_id, [5], finish_reason=FinishReason.LENGTH))
        await canary


@pytest.mark.parametrize("what_else", [None, "has begun", "goes on", "has tokens"])
async def test_a_grammar_that_cannot_be_compiled_is_the_requests_fault(what_else: str | None) -> None:
    """Any other error of the engine is not: the ingress sees it, and has another engine go on."""
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine import EngineCoreOutput, FinishReason

    before = [10] if what_else == "goes on" else []
    tokens = [12] if what_else == "has tokens" else []
    async with harness() as one:
        grammar = {"structured_outputs": StructuredOutputsParams(structural_tag="{}")}
        request = one.request(0, params=grammar, output_token_ids=before)
        task = asyncio.create_task(one.engine.generate(request))
        await one.begun(1)
        if what_else == "has begun":
            one.step(output(0, 11))
            await one.frame()
        one.step(EngineCoreOutput("r0-core", tokens, finish_reason=FinishReason.ERROR))
        if what_else:
            [(_, _, last)] = await one.frame()
            assert last.finish_reason is FinishReason.ERROR
            assert await task == 1
        else:
            with pytest.raises(BadRequestError, match="could not be compiled within 60 s"):
                await task


async def test_graphs_are_checked_in_every_worker() -> None:
    good = {
        "max_requests": 1,
        "tokens_per_request": 1,
        "mode": "FULL",
        "sizes": [1],
        "batches": ["FULL"],
        "drafts": [],
    }
    async with harness() as one:
        one.llm.reports = [good, good]
        await one.engine.check_graphs(DecodeShape(1, 0))
        one.llm.reports = [good, good | {"batches": ["NONE"]}]
        with pytest.raises(GraphsMissingError):
            await one.engine.check_graphs(DecodeShape(1, 0))


async def test_an_engine_that_hangs_is_killed_with_its_children() -> None:
    program = (
        "import subprocess, sys, threading\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'])\n"
        "print(child.pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    core = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        assert core.stdout
        worker = psutil.Process(int(core.stdout.readline()))
        async with harness() as one:
            gone = SimpleNamespace(pid=2**22 + 1)  # above the largest that Linux gives
            one.llm.engine_core.resources.engine_manager.processes = [gone, core]
            one.engine.kill()
        core.wait(300)
        psutil.wait_procs([worker], timeout=300)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    finally:
        core.kill()
        core.wait(300)
        core.stdout.close()  # type: ignore[union-attr]


async def test_shutdown_ends_vllm() -> None:
    async with harness() as one:
        one.engine.shutdown()
        assert one.llm.is_down
