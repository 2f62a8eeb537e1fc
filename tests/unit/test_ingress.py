"""The ingress's deployment over a timed engine; the handles are objects of this process."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from serve_app import ingress as ingress_module
from serve_app import readiness
from serve_app.config import AppConfig
from serve_app.engine_calls import EngineCall
from serve_app.errors import BadRequestError
from serve_app.grammars.checker import GrammarChecker
from serve_app.ingress import Ingress
from serve_app.timed.engine import TimedEngine
from serve_app.transport.curve import CurveAddress
from serve_app.transport.requests import GenerateRequest
from tests import asgi
from tests.unit.admission.gates import gate_of
from tests.unit.routers import Replicas
from tests.waiting import pass_until

# vLLM and what it imports use what is deprecated. The first test imports it.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-oss", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 20}
PUBLIC_IDS = "chatcmpl-"

Generate = Callable[[GenerateRequest], Awaitable[int]]


class Response:
    """As Serve's, of a task."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.num_cancelled = 0

    def __await__(self) -> Any:
        return asyncio.shield(self.task).__await__()

    def cancel(self) -> None:
        self.num_cancelled += 1
        self.task.cancel()


class EngineHandle:
    """As the engine's handle: holds a call until its slot is granted, and sends what pickle makes of it."""

    app_name, deployment_name = "app", "Engine"

    def __init__(self, generate: Generate) -> None:
        self.engine_generate = generate
        self.calls: list[EngineCall] = []
        self.responses: list[Response] = []

    @property
    def generate(self) -> EngineHandle:
        return self

    def remote(self, call: EngineCall) -> Response:
        self.calls.append(call)
        self.responses.append(Response(asyncio.create_task(self._run(call))))
        return self.responses[-1]

    async def _run(self, call: EngineCall) -> int:
        await call.grant.granted()
        return await self.engine_generate(pickle.loads(pickle.dumps(call)))


class GateHandle:
    """As the gate's handle: each question for its address is answered by the next of `answers`."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[CurveAddress | Exception] = asyncio.Queue()
        self.num_asked = 0

    @property
    def address(self) -> GateHandle:
        return self

    async def remote(self) -> CurveAddress:
        self.num_asked += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


class ReplicaID:
    """As Serve's."""

    def __init__(self, unique_id: str) -> None:
        self.unique_id = unique_id


class Router(Replicas):
    """What readiness reads of a router."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        readiness.register("app", "Engine", self)
        self.set_replicas(*names)

    def set_replicas(self, *names: str) -> None:
        self.curr_replicas = {ReplicaID(name): None for name in names}
        readiness.changed("app", "Engine")


class Bench:
    """An ingress, its handles, and an engine without a model."""

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self.router = Router("a")
        self.gate = GateHandle()
        self.ingress = Ingress.__new__(Ingress)
        self.engine = TimedEngine.__new__(TimedEngine)
        self.handle = EngineHandle(self._generate)
        self.sent: list[GenerateRequest] = []

    async def _generate(self, request: GenerateRequest) -> int:
        self.sent.append(request)
        return await self.engine.generate(request)

    async def start(self) -> None:
        await self.engine.__init__(self.config, new_watchdog=lambda: None)  # type: ignore[misc]
        engine: Any = self.handle
        gate: Any = self.gate
        await self.ingress.__init__(self.config, engine, gate)  # type: ignore[misc]

    async def close(self) -> None:
        self.ingress._gate.close()
        await asyncio.gather(self.ingress._gate.task, return_exceptions=True)
        self.ingress._engines.close()
        await self.ingress._grammars.close()
        self.engine.close()
        gc.unfreeze()  # what the ingress has frozen

    @property
    def app(self) -> Any:
        return self.ingress.__serve_build_asgi_app__()

    @property
    def load(self) -> tuple[int, int]:
        """What runs and what waits, as the ingress knows that decides alone."""
        return self.ingress._gate._own.num_running, self.ingress._gate._own.num_waiting

    async def chat(self, **body: Any) -> Any:
        return await asgi.request(self.app, "POST", CHAT, json=BODY | body)

    async def until_idle(self) -> None:
        """Calls end after their answers, and give back their slots."""
        await pass_until(lambda: not self.ingress._engines.num_open)
        assert self.load == (0, 0)
        assert not self.ingress._gate._requests


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Starts a bench; the arguments are of the config's section `engine`."""
    monkeypatch.setattr(readiness, "_routers", type(readiness._routers)())
    monkeypatch.setattr(readiness, "_listeners", {})
    # Workers that nobody needs here, each a process. They start with the first grammar as well.
    monkeypatch.setattr(GrammarChecker, "start", lambda _: None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.5}')
    (tmp_path / "key").write_bytes(b64encode(bytes(range(32))))

    @asynccontextmanager
    async def started(**engine: Any) -> AsyncIterator[Bench]:
        timed = {"steps_per_second": 250, "tokens_per_step": 4}
        config = AppConfig.model_validate(
            {
                "model": {"source": f"file:{tmp_path}", "served_names": ["gpt-oss"]},
                "engine": {
                    "max_concurrent_requests": 2,
                    "max_model_len": 512,
                    "num_gpus": 0,
                    "timed": timed,
                }
                | engine,
                "ingress": {"sealing_key_file": str(tmp_path / "key")},
            }
        )
        bench = Bench(config)
        await bench.start()
        try:
            yield bench
        finally:
            await bench.close()

    return started


# --- requests ------------------------------------------------------------------------------------------


async def test_a_request_goes_to_an_engine_and_its_tokens_come_back(start: Any) -> None:
    async with start() as bench:
        answer = await bench.chat()
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["id"].startswith(PUBLIC_IDS)
        assert body["usage"]["completion_tokens"] == 20
        assert body["choices"][0]["message"]["content"]
        [call], [sent] = bench.handle.calls, bench.sent
        assert call.grant.replica == "a"
        assert sent == call.request
        assert sent.reply_to == bench.ingress._engines._receiver.address
        assert b"\xa5top_p" in sent.sampling_params  # the checkpoint's own default
        await bench.until_idle()


async def test_each_choice_is_a_call_with_a_slot_of_its_own(start: Any) -> None:
    async with start(max_concurrent_requests=4) as bench:
        answer = await bench.chat(n=3, temperature=1)
        assert len(answer.json()["choices"]) == 3
        assert len({id(call.grant) for call in bench.handle.calls}) == 3
        await bench.until_idle()


async def test_engines_that_die_one_after_another(start: Any) -> None:
    async with start() as bench:
        bench.router.set_replicas("a", "b", "c")
        # Another request is there, too: so it is not this one that engines die of.
        others = [asyncio.create_task(bench.chat(max_tokens=400, ignore_eos=True)) for _ in range(4)]
        await pass_until(lambda: len(bench.sent) == 4)

        async def generate(request: GenerateRequest) -> int:
            raise ActorDiedError()

        bench.handle.engine_generate = generate
        answer = await bench.chat()
        assert answer.status_code == 503
        assert "has died; the request can be sent again" in answer.json()["error"]["message"]
        assert len(bench.handle.calls) == 4 + 3
        for other in others:
            other.cancel()
        await bench.until_idle()


async def test_a_request_that_engines_die_of(start: Any) -> None:
    async with gate_of("a", "b", "c") as (server, admission), start() as bench:
        bench.gate.answers.put_nowait(server.address)
        await admission.until(lambda: admission.num_joins == 1)

        async def generate(request: GenerateRequest) -> int:
            raise ActorDiedError()

        bench.handle.engine_generate = generate
        answer = await bench.chat()
        assert answer.status_code == 500
        assert "engines have died while this request ran on them" in answer.json()["error"]["message"]
        assert len(bench.handle.calls) == 3, "the third call is never sent"
        assert bench.handle.responses[2].num_cancelled == 1
        bench.handle.engine_generate = bench._generate
        assert answer.headers["x-should-retry"] == "false"
        assert (await bench.chat()).status_code == 200, "the third engine is there for the others"
        await admission.until(lambda: admission.counts == (0, 0))


async def test_an_ingress_that_takes_no_frames_any_more_is_not_healthy(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.vllm_adapter.remote_sequence.LAST_FRAME_TIMEOUT_S", 0.01)
    async with start() as bench:
        await bench.ingress.check_health()
        bench.ingress._engines._receiver.receive = None
        assert (await bench.chat()).status_code == 503
        with pytest.raises(TypeError):
            await bench.ingress.check_health()


@pytest.mark.parametrize("is_vllms", [False, True])
async def test_what_an_engine_refuses_is_the_clients_mistake(start: Any, is_vllms: bool) -> None:
    from serve_app.vllm_adapter import VLLMClientError

    cause = VLLMClientError("a token is out of range") if is_vllms else BadRequestError("no", "max_tokens")

    async def generate(request: GenerateRequest) -> int:
        raise RayTaskError("generate", "Traceback", cause).as_instanceof_cause()  # type: ignore[no-untyped-call]

    async with start() as bench:
        bench.handle.engine_generate = generate
        answer = await bench.chat()
        assert answer.status_code == 400
        assert str(cause) in answer.json()["error"]["message"]
        await bench.until_idle()


@pytest.mark.parametrize("has_slot", [True, False])
async def test_a_client_that_leaves_has_its_call_cancelled(start: Any, has_slot: bool) -> None:
    """One that waits for its slot too."""
    async with start(max_concurrent_requests=1, timed={"steps_per_second": 1}) as bench:
        tasks = [asyncio.create_task(bench.chat(max_tokens=400)) for _ in range(2)]
        await pass_until(lambda: len(bench.handle.calls) == 2 and len(bench.sent) == 1)
        assert bench.load == (1, 1)
        work = await bench.ingress.open_work()
        assert (work["pid"], work["requests"], work["sequences"]) == (os.getpid(), 2, 2)
        leaving, staying = tasks if has_slot else reversed(tasks)
        first, second = bench.handle.responses if has_slot else reversed(bench.handle.responses)
        leaving.cancel()
        await pass_until(lambda: first.num_cancelled == 1)
        assert second.num_cancelled == 0
        await pass_until(lambda: bench.load == (1, 0))
        staying.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bench.until_idle()
        assert [response.num_cancelled for response in bench.handle.responses] == [1, 1]
        left = await bench.ingress.open_work()
        assert (left["requests"], left["sequences"]) == (0, 0)
        assert left["tasks"] < work["tasks"]


# --- which engines are ready ---------------------------------------------------------------------------


async def test_health_follows_the_router(start: Any) -> None:
    async with start() as bench:
        answer = await asgi.request(bench.app, "GET", "/health")
        assert answer.status_code == 200
        bench.router.set_replicas()
        answer = await asgi.request(bench.app, "GET", "/health")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert "no engine replica is ready" in answer.text


async def test_where_engines_start_on_demand_none_is_needed(start: Any) -> None:
    async with start(min_replicas=0, max_replicas=1) as bench:
        bench.router.set_replicas()
        answer = await asgi.request(bench.app, "GET", "/health")
        assert answer.status_code == 200


async def test_requests_go_to_engines_that_come_and_not_to_those_found_dead(start: Any) -> None:
    async with start(max_concurrent_requests=8) as bench:
        await asyncio.to_thread(bench.router.set_replicas, "a", "b")  # in the router's thread
        await asyncio.to_thread(readiness.died, "app", "Engine", "a")
        await bench.chat(n=3, temperature=1)
        assert {call.grant.replica for call in bench.handle.calls} == {"b"}
        await bench.until_idle()


# --- the gate ------------------------------------------------------------------------------------------


async def test_the_gate_decides_once_its_address_is_known(start: Any) -> None:
    async with start() as bench, gate_of("z", max_concurrent_requests=2) as (server, admission):
        bench.gate.answers.put_nowait(server.address)
        await admission.until(lambda: admission.num_joins == 1)
        answer = await bench.chat()
        assert answer.status_code == 200
        assert bench.handle.calls[0].grant.replica == "z"
        await admission.until(lambda: admission.counts == (0, 0))


async def test_a_gate_that_cannot_be_asked_is_asked_again(
    start: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ingress_module, "GATE_RETRY_S", 0.0)
    async with start() as bench, gate_of("z", max_concurrent_requests=2) as (server, admission):
        for answer in (RayActorError(), RayActorError(), server.address):
            bench.gate.answers.put_nowait(answer)
        await admission.until(lambda: admission.num_joins == 1)
        assert bench.gate.num_asked == 3
        assert caplog.text.count("the gate could not be asked for its address, trying again") == 2
