"""vLLM's own handlers over an engine that is a script: no engine is started, and nothing below is imitated.

The script says what an engine replica would: lists of vLLM's `EngineCoreOutput`, with token ids that
openai-harmony makes from a text.
"""

import asyncio
import json
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from fastapi import FastAPI
from starlette.types import Message

from serve_app import vocabulary
from serve_app.admission.client import MESSAGES, GateClient
from serve_app.admission.http import GENERATING, current_visit
from serve_app.admission.messages import Reason, Tier
from serve_app.admission.rules import Rules
from serve_app.api.application import new_app
from serve_app.config import read_config
from serve_app.demo import CACHE, MODEL_NAME
from serve_app.demo.unfolding import unfold
from serve_app.engine_arguments import engine_arguments
from serve_app.errors import (
    EngineLostError,
    EngineUnavailableError,
    KeyLimitError,
    OverloadedError,
    ServiceError,
)
from serve_app.frame_sockets import FrameReceiver, FrameSender
from serve_app.messages import GenerateRequest
from serve_app.step_frames import AnswerSequence

# vLLM and what it imports use what is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
TIMEOUT_S = 30.0
MAX_UNREAD_TOKENS = 500
TOKENS_PER_STEP = 3  # as with draft tokens
REPLY = (
    "<|channel|>analysis<|message|>Just greet.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Hello there, friend.<|return|>"
)

# Of a chat's POST, for tests that are the server themselves.
CHAT_SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "method": "POST",
    "path": "/v1/chat/completions",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}

# What a script yields: text, None for ever waiting, or an exception to raise.
Script = Callable[[GenerateRequest], list[str | Exception | None]]


class ScriptedEngine:
    """`generate` of an engine replica, and a record of its calls."""

    def __init__(self) -> None:
        import openai_harmony

        from serve_app.vllm_adapter import wire

        self._encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
        self.sender = FrameSender(wire.new_encoder(), wire.merge)
        self.reset()

    core: Any
    """The `RemoteEngineCore` that calls."""

    def reset(self) -> None:
        self.script: Script = lambda _: [REPLY]
        self.before: Callable[[], Awaitable[None]] | None = None
        self.requests: list[GenerateRequest] = []
        self.answers: list[AnswerSequence] = []
        self.num_open = 0
        self.left_early: list[str] = []
        self.is_left = asyncio.Event()
        self.waits = asyncio.Event()

    async def generate(self, request: GenerateRequest, answer: AnswerSequence) -> int:
        from vllm.v1.engine import EngineCoreOutput, FinishReason

        if self.before:
            await self.before()
        self.answers.append(answer)
        # It crosses a process boundary.
        self.requests.append(pickle.loads(pickle.dumps(request)))
        self.num_open += 1
        link, position = self.sender.open(request.reply_to), 0
        try:
            for part in self.script(request):
                if part is None:
                    self.waits.set()
                    await asyncio.Event().wait()
                if isinstance(part, Exception):
                    raise part
                ids = self._encoding.encode(part or "", allowed_special="all")
                for start in range(0, len(ids), TOKENS_PER_STEP):
                    step = ids[start : start + TOKENS_PER_STEP]
                    ends = FinishReason.STOP if step[-1] in (200002, 200012) else None
                    # An engine replica has ids of its own.
                    output = EngineCoreOutput("engine-0", step, finish_reason=ends)
                    link.add(request.call, position, output, len(step))
                    position += len(step)
                    await self.send(request.call, position)
            return position
        except asyncio.CancelledError:
            self.left_early.append(request.request_id)
            self.is_left.set()
            raise
        finally:
            self.num_open -= 1
            self.sender.release(link)

    async def send(self, call: int, num_tokens: int) -> None:
        """Sends what was added, and waits for the ingress to have that much of the answer."""
        self.sender.flush()
        # The ingress has no event for it.
        while (answer := self.core._open.get(call)) and answer.sequence.num_tokens < num_tokens:  # noqa: ASYNC110
            await asyncio.sleep(0)


class Service:
    """The application of an ingress over a `ScriptedEngine`, all in one event loop."""

    def __init__(self, app: FastAPI, llm: Any, engine: ScriptedEngine, runner: asyncio.Runner) -> None:
        self.app, self.llm, self.engine = app, llm, engine
        self._runner = runner

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(asyncio.wait_for(work, TIMEOUT_S))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx2.AsyncClient]:
        # An exception that a handler has answered is raised once more for the server to log.
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        async def send() -> httpx2.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        answer: httpx2.Response = self.run(send())
        return answer

    def chat(self, **body: Any) -> httpx2.Response:
        return self.request("POST", "/v1/chat/completions", json=chat_body(**body))

    async def settle(self) -> None:
        """Until calls that were left have ended."""
        calls = [call.task for call in self.llm.engine_core.calls.values()]
        await asyncio.gather(*calls, return_exceptions=True)


def chat_body(**body: Any) -> dict[str, Any]:
    return {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "Say hello."}]} | body


def params_of(request: GenerateRequest) -> Any:
    from vllm import SamplingParams

    return msgspec.msgpack.decode(request.sampling_params, type=SamplingParams)


def events_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.fixture(scope="module")
def module_service() -> Iterator[Service]:
    unfold(CACHE)
    config = read_config(next(path for path in CONFIGS if path.name == "local.yaml"))
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv(vocabulary.VARIABLE, "")  # put back in the end
        vocabulary.install()

        async def start() -> Service:
            from serve_app.vllm_adapter import RemoteLLM, attach_api

            engine = ScriptedEngine()
            arguments = engine_arguments(config, str(CACHE / MODEL_NAME), None)
            receiver = FrameReceiver("127.0.0.1")
            llm = RemoteLLM(arguments, engine.generate, receiver, MAX_UNREAD_TOKENS, None)
            engine.core = llm.engine_core
            app = new_app(config.ingress.max_body_bytes, config.engine.max_model_len, lambda: 1)
            await attach_api(app, llm, config.model.id, config.model.served_names)
            return Service(app, llm, engine, runner)

        service = runner.run(start())
        yield service
        service.engine.sender.close()
        service.llm.shutdown()


@pytest.fixture
def service(module_service: Service) -> Iterator[Service]:
    """Fails a test after which anything of a request is left."""
    module_service.engine.reset()
    yield module_service
    processor, core = module_service.llm.output_processor, module_service.llm.engine_core
    kept = processor.request_states, processor.parent_requests, processor.external_req_ids
    try:
        module_service.run(module_service.settle())
        assert module_service.engine.num_open == 0
        assert core._open == {}
        assert [dict(mapping) for mapping in kept] == [{}, {}, {}]
    finally:
        for mapping in kept:
            mapping.clear()  # the next test starts afresh


# --- arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_argument_that_a_config_gives_is_vllms(path: Path) -> None:
    from serve_app.vllm_adapter import argument_names

    assert set(engine_arguments(read_config(path), "/model", "/speculator")) <= argument_names()


# --- answers -------------------------------------------------------------------------------------------


def test_a_chat_answer(service: Service) -> None:
    answer = service.chat()
    assert answer.status_code == 200
    body = answer.json()
    [choice] = body["choices"]
    assert choice["message"]["reasoning"] == "Just greet."
    assert choice["message"]["content"] == "Hello there, friend."
    assert choice["finish_reason"] == "stop"
    assert body["model"] == "gpt-oss-demo"
    [request] = service.engine.requests
    num_tokens = len(service.engine._encoding.encode(REPLY, allowed_special="all"))
    assert body["usage"]["completion_tokens"] == num_tokens
    assert body["usage"]["prompt_tokens"] == len(request.prompt_token_ids)
    assert service.engine.left_early == []


def test_how_much_of_the_answer_has_come_is_seen_by_who_calls(service: Service) -> None:
    service.chat(n=2)
    num_tokens = len(service.engine._encoding.encode(REPLY, allowed_special="all"))
    assert [answer.num_tokens for answer in service.engine.answers] == [num_tokens, num_tokens]


def test_what_is_sent_to_the_engine(service: Service) -> None:
    service.chat(max_completion_tokens=77, temperature=0.5, seed=9, priority=3, cache_salt="salt")
    [request] = service.engine.requests
    text = service.engine._encoding.decode(request.prompt_token_ids)
    assert text.startswith("<|start|>system<|message|>")
    assert text.endswith("<|start|>user<|message|>Say hello.<|end|><|start|>assistant")
    assert request.priority == 3
    assert request.cache_salt == "salt"
    params = params_of(request)
    assert (params.max_tokens, params.temperature, params.seed, params.n) == (77, 0.5, 9, 1)


def test_a_chat_stream(service: Service) -> None:
    events = events_of(service.chat(stream=True, stream_options={"include_usage": True}))
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == "Just greet."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello there, friend."
    # Piece by piece, as the engine's steps came.
    assert sum(bool(delta.get("content")) for delta in deltas) > 1
    assert events[-1]["usage"]["completion_tokens"] > 0


def test_a_tool_call(service: Service) -> None:
    service.engine.script = lambda _: [
        "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant to=functions.weather"
        '<|channel|>commentary <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
    ]
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": schema}}
    [choice] = service.chat(tools=[tool]).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


def test_several_choices_are_several_calls(service: Service) -> None:
    def script(request: GenerateRequest) -> list[str | Exception | None]:
        return [REPLY.replace("friend", request.request_id)]

    service.engine.script = script
    choices = service.chat(n=3, seed=5).json()["choices"]
    ids = [request.request_id for request in service.engine.requests]
    assert len(set(ids)) == 3
    assert [params_of(request).n for request in service.engine.requests] == [1, 1, 1]
    assert [params_of(request).seed for request in service.engine.requests] == [5, 6, 7]
    answers = {choice["index"]: choice["message"]["content"] for choice in choices}
    assert answers == {index: f"Hello there, {ids[index]}." for index in range(3)}


def test_two_requests_of_the_same_public_id(service: Service) -> None:
    headers = {"x-request-id": "same"}

    async def both() -> list[httpx2.Response]:
        async with service.client() as client:
            path = "/v1/chat/completions"
            return await asyncio.gather(
                *(client.post(path, json=chat_body(), headers=headers) for _ in range(2))
            )

    answers = service.run(both())
    assert [answer.status_code for answer in answers] == [200, 200]
    assert {answer.json()["id"] for answer in answers} == {"chatcmpl-same"}
    assert len({request.request_id for request in service.engine.requests}) == 2


def test_completions(service: Service) -> None:
    service.engine.script = lambda _: ["one two three<|return|>"]
    body = {"model": "gpt-oss-demo", "prompt": "count", "max_tokens": 16}
    [choice] = service.request("POST", "/v1/completions", json=body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("one two three", "stop")


def test_responses(service: Service) -> None:
    body = {"model": "gpt-oss-demo", "input": "Say hello."}
    answer = service.request("POST", "/v1/responses", json=body).json()
    assert answer["status"] == "completed"
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message"]
    assert answer["output"][1]["content"][0]["text"] == "Hello there, friend."


def test_messages(service: Service) -> None:
    body = chat_body(max_tokens=100)
    answer = service.request("POST", "/v1/messages", json=body).json()
    assert answer["type"] == "message"
    texts = [block["text"] for block in answer["content"] if block["type"] == "text"]
    assert texts == ["Hello there, friend."]
    assert answer["stop_reason"] == "end_turn"


def test_models(service: Service) -> None:
    [model] = service.request("GET", "/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("gpt-oss-demo", 4096)


# --- ends that the ingress brings about ----------------------------------------------------------------


def test_a_stop_string_ends_the_call_and_is_cut_off(service: Service) -> None:
    # The engine knows nothing of it, and would go on.
    service.engine.script = lambda _: ["one two three four five six", None]
    body = {"model": "gpt-oss-demo", "prompt": "count", "max_tokens": 16, "stop": [" four"]}
    [choice] = service.request("POST", "/v1/completions", json=body).json()["choices"]
    assert choice["text"] == "one two three"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", " four")
    service.run(service.engine.is_left.wait())
    assert service.engine.left_early == [service.engine.requests[0].request_id]


def test_a_stop_string_in_a_chat(service: Service) -> None:
    service.engine.script = lambda _: [REPLY.removesuffix("<|return|>"), None]
    [choice] = service.chat(stop=["there,"]).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "there,")
    # Harmony is parsed from whole tokens, which vLLM does not cut.
    assert choice["message"]["content"] == "Hello there,"
    service.run(service.engine.is_left.wait())
    assert service.engine.left_early == [service.engine.requests[0].request_id]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_the_call(service: Service, stream: bool) -> None:
    service.engine.script = lambda _: ["<|channel|>final<|message|>Hello", None]
    content = json.dumps(chat_body(stream=stream)).encode()

    async def leave() -> None:
        arrived: list[Message] = [{"type": "http.request", "body": content}]

        async def receive() -> Message:
            if arrived:
                return arrived.pop()
            await service.engine.waits.wait()
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            pass

        with suppress(asyncio.CancelledError):
            await service.app(CHAT_SCOPE.copy(), receive, send)
        await service.engine.is_left.wait()

    service.run(leave())
    assert service.engine.left_early == [service.engine.requests[0].request_id]


# --- errors --------------------------------------------------------------------------------------------


def openai_error(answer: httpx2.Response) -> tuple[int, str]:
    """Status and message; checks that the body is OpenAI's and says the same."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == answer.status_code
    return answer.status_code, error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineLostError("the replica has died"), 503),
        (OverloadedError("the queue is full"), 429),
        (KeyLimitError("the key has used its tokens"), 429),
    ],
    ids=repr,
)
def test_an_error_before_the_first_token_is_a_status(
    service: Service, error: ServiceError, status: int, stream: bool
) -> None:
    service.engine.script = lambda _: [error]
    assert openai_error(service.chat(stream=stream)) == (status, str(error))


def test_an_error_after_the_first_tokens(service: Service) -> None:
    service.engine.script = lambda _: [
        "<|channel|>final<|message|>Hello there",
        EngineLostError("the replica has died"),
    ]
    assert openai_error(service.chat()) == (503, "the replica has died")
    last = events_of(service.chat(stream=True))[-1]
    assert (last["error"]["code"], last["error"]["message"]) == (503, "the replica has died")


def test_an_error_in_a_stream_of_the_responses_api(service: Service) -> None:
    service.engine.script = lambda _: [
        "<|channel|>final<|message|>Hello there",
        EngineLostError("the replica has died"),
    ]
    body = {"model": "gpt-oss-demo", "input": "Say hello.", "stream": True}
    events = events_of(service.request("POST", "/v1/responses", json=body))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "error"
    assert (events[-1]["code"], events[-1]["message"]) == ("503", "the replica has died")


# Said by the gate before the handler begins, or to one who has waited in vain, in place of an answer.
NO_ENGINE = EngineUnavailableError("no engine replica is ready", 30.0)
FULL = OverloadedError("the queue is full", 4.2)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [NO_ENGINE, FULL], ids=repr)
def test_who_waits_in_vain(service: Service, error: ServiceError, stream: bool, n: int) -> None:
    service.engine.script = lambda _: [error]
    assert openai_error(service.chat(stream=stream, n=n)) == (error.status, str(error))


@pytest.mark.parametrize(
    ("path", "body", "stream"),
    [
        ("/v1/completions", {"prompt": "a"}, False),
        ("/v1/completions", {"prompt": "a"}, True),
        ("/v1/completions", {"prompt": ["a", "b"]}, False),
        ("/v1/completions", {"prompt": ["a", "b"]}, True),
        # A stream of it opens before there is a place: its turn is waited for by `Visits`, see below.
        ("/v1/responses", {"input": "a"}, False),
    ],
)
@pytest.mark.parametrize("error", [NO_ENGINE, FULL], ids=repr)
def test_who_waits_in_vain_at_the_other_apis(
    service: Service, path: str, body: dict[str, Any], error: ServiceError, stream: bool
) -> None:
    service.engine.script = lambda _: [error]
    body = body | {"model": "gpt-oss-demo", "stream": stream}
    assert openai_error(service.request("POST", path, json=body)) == (error.status, str(error))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind"), [(NO_ENGINE, "Service Unavailable"), (FULL, "Too Many Requests")], ids=repr
)
def test_anthropics_clients_that_wait_in_vain(
    service: Service, error: ServiceError, kind: str, stream: bool
) -> None:
    service.engine.script = lambda _: [error]
    answer = service.request("POST", "/v1/messages", json=chat_body(max_tokens=9, stream=stream))
    assert answer.status_code == error.status
    found = answer.json()
    assert found["type"] == "error"
    assert (found["error"]["type"], found["error"]["message"]) == (kind, str(error))


# What needs a place in an engine: each API, with a body that its handler would answer.
GENERATING_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(),
    "/v1/chat/completions/batch": chat_body(messages=[[{"role": "user", "content": "Say hello."}]]),
    "/v1/completions": {"model": "gpt-oss-demo", "prompt": "a"},
    "/v1/responses": {"model": "gpt-oss-demo", "input": "a"},
    "/v1/messages": chat_body(max_tokens=9),
}


@asynccontextmanager
async def gate_of(service: Service, *replicas: str) -> AsyncIterator[tuple[FastAPI, GateClient]]:
    """The application as an ingress makes it, over the same handlers, and a gate with these engines."""

    async def nowhere() -> Any:
        await asyncio.Event().wait()

    gate = GateClient(Rules(max_concurrent_requests=1, max_queued=1, max_wait_s=30), nowhere)
    gate.set_replicas(replicas)
    try:
        app = new_app(10**6, 4096, lambda: 1, gate)
        await attach(app, service)
        yield app, gate
    finally:
        gate.close()


async def post(app: FastAPI, path: str, body: dict[str, Any]) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        return await client.post(path, json=body)


async def attach(app: FastAPI, service: Service) -> None:
    from serve_app.vllm_adapter import attach_api

    await attach_api(app, service.llm, "gpt-oss-demo", ["gpt-oss-demo"])


@pytest.mark.parametrize("path", GENERATING_BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_the_gate_refuses_before_the_handler_begins(service: Service, path: str, stream: bool) -> None:
    async def answer() -> httpx2.Response:
        async with gate_of(service) as (app, _):
            return await post(app, path, GENERATING_BODIES[path] | {"stream": stream})

    refused = service.run(answer())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "30"
    error = refused.json()["error"]
    assert error["message"].startswith("no engine replica is ready")
    assert (error["type"], error["param"], error["code"]) == ("Service Unavailable", None, 503)
    assert ("type" in refused.json()) == (path == "/v1/messages")
    assert service.engine.requests == []


STREAMS = [(path, stream) for path in GENERATING_BODIES for stream in (False, True) if "batch" not in path]


@pytest.mark.parametrize(("path", "stream"), [*STREAMS, ("/v1/chat/completions/batch", False)])
def test_who_is_refused_while_the_handler_waits_has_a_status(
    service: Service, path: str, stream: bool
) -> None:
    """And a time to come back, whatever the handler has sent by then."""

    async def work() -> None:
        async with gate_of(service, "a") as (app, gate):
            waits = asyncio.Event()

            async def wait_in_vain() -> None:
                place = current_visit().take_place()
                waits.set()
                try:
                    await place.granted()
                finally:
                    place.release(0)

            service.engine.before = wait_in_vain
            running = gate.ask("", Tier.DEFAULT, 1)
            answering = asyncio.create_task(post(app, path, GENERATING_BODIES[path] | {"stream": stream}))
            await waits.wait()
            urgent = gate.ask("", Tier.PRIORITY, 1)
            refused = await answering
            assert refused.headers["retry-after"] == "1"
            assert (refused.status_code, refused.json()["error"]["message"]) == (
                429,
                MESSAGES[Reason.QUEUE_FULL],
            )
            running.close()
            urgent.close()
            assert (gate._own.num_running, gate._own.num_waiting) == (0, 0)
            assert not gate._tickets

    service.run(work())
    assert service.engine.requests == []


@pytest.mark.parametrize(("path", "stream"), [*STREAMS, ("/v1/chat/completions/batch", False)])
def test_who_has_waited_is_answered_in_full(service: Service, path: str, stream: bool) -> None:
    async def answer(waits_first: bool) -> httpx2.Response:
        async with gate_of(service, "a") as (app, gate):
            waits = asyncio.Event()

            async def wait() -> None:
                place = current_visit().take_place()
                waits.set()
                await place.granted()
                place.release(10)

            service.engine.before = wait
            running = gate.ask("", Tier.DEFAULT, 1) if waits_first else None
            answering = asyncio.create_task(post(app, path, GENERATING_BODIES[path] | {"stream": stream}))
            await waits.wait()
            if running:
                running.close()
            return await answering

    at_once, later = (service.run(answer(waits_first)) for waits_first in (False, True))
    assert (later.status_code, later.headers["content-type"]) == (200, at_once.headers["content-type"])
    assert (later.text.count("data:"), later.text.count("Hello")) == (
        at_once.text.count("data:"),
        at_once.text.count("Hello"),
    )


# Routes that take a POST and make no engine work.
IDLE_ROUTES = {
    "/v1/messages/count_tokens",
    "/v1/responses/{response_id}/cancel",
    "/tokenize",
    "/detokenize",
}


def test_every_route_that_generates_is_asked_for_at_the_gate(service: Service) -> None:
    """A route of vLLM's that the gate does not know of would call an engine without a place."""
    found = {path for path, methods in service.app.openapi()["paths"].items() if "post" in methods}
    assert found - IDLE_ROUTES == GENERATING == set(GENERATING_BODIES)


def test_an_error_for_anthropics_clients(service: Service) -> None:
    service.engine.script = lambda _: [EngineLostError("the replica has died")]
    answer = service.request("POST", "/v1/messages", json=chat_body(max_tokens=9))
    assert answer.status_code == 503
    error = {"type": "Service Unavailable", "message": "the replica has died"}
    assert answer.json() == {"type": "error", "error": error}


@pytest.mark.parametrize("stream", [False, True])
def test_an_unforeseen_error_is_the_requests_own(service: Service, stream: bool) -> None:
    service.engine.script = lambda _: [RuntimeError("a wire broke")]
    assert openai_error(service.chat(stream=stream)) == (500, "engine failure: a wire broke")
    service.engine.script = lambda _: [REPLY]
    assert service.chat().json()["choices"][0]["message"]["content"] == "Hello there, friend."


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_the_callers_mistake(service: Service, stream: bool) -> None:
    from vllm.exceptions import VLLMValidationError

    service.engine.script = lambda _: [VLLMValidationError("too hot", parameter="temperature", value=9)]
    status, message = openai_error(service.chat(stream=stream))
    assert status == 400
    assert message.startswith("too hot")


def test_requests_side_by_side_fail_alone(service: Service) -> None:
    def script(request: GenerateRequest) -> list[str | Exception | None]:
        return [RuntimeError("a wire broke") if params_of(request).seed == 1 else REPLY]

    service.engine.script = script

    async def all_three() -> list[httpx2.Response]:
        async with service.client() as client:
            path = "/v1/chat/completions"
            return await asyncio.gather(*(client.post(path, json=chat_body(seed=seed)) for seed in range(3)))

    assert [answer.status_code for answer in service.run(all_three())] == [200, 500, 200]


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"model": "gpt-oss-demo"}', b'{"messages": 1}', b"[]", b"null", b'"\xff"'],
)
def test_bodies_that_are_wrong(service: Service, content: bytes) -> None:
    answer = service.request(
        "POST", "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert openai_error(answer)[0] == 400
    assert service.engine.requests == []


def test_the_rules_hold_for_vllms_routes(service: Service) -> None:
    assert openai_error(service.chat(max_tokens=4097))[0] == 400
    assert openai_error(service.chat(messages=[]))[0] == 400
    assert openai_error(service.chat(user="\0"))[0] == 400
    assert service.chat(max_tokens=4096 - 100).status_code == 200


def test_unknown_models_and_routes(service: Service) -> None:
    assert openai_error(service.chat(model="other"))[0] == 404
    assert openai_error(service.request("GET", "/v1/none"))[0] == 404
    assert openai_error(service.request("GET", "/v1/chat/completions"))[0] == 405


@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_that_fails_ends_the_others(service: Service, stream: bool) -> None:
    def script(request: GenerateRequest) -> list[str | Exception | None]:
        return [None] if request.request_id.startswith("0_") else [EngineLostError("it died")]

    service.engine.script = script
    assert openai_error(service.chat(n=2, stream=stream)) == (503, "it died")
    service.run(service.engine.is_left.wait())


@pytest.mark.parametrize("n", [2, 3])
def test_all_choices_fail(service: Service, n: int) -> None:
    service.engine.script = lambda _: [EngineLostError("it died")]
    assert openai_error(service.chat(n=n))[0] == 503


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[], ["<|channel|>final<|message|>Hello there"]])
def test_a_call_that_ends_without_a_finish_reason(
    service: Service, script: list[str | Exception | None], stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.vllm_adapter.remote_llm.LAST_FRAME_TIMEOUT_S", 0.05)
    service.engine.script = lambda _: script
    answer = service.chat(stream=stream)
    if stream and script:
        assert events_of(answer)[-1]["error"]["code"] == 503
    else:
        assert openai_error(answer)[0] == 503


def test_a_message_stream_that_cannot_open_has_a_status(service: Service) -> None:
    service.engine.script = lambda _: [EngineLostError("it died")]
    body = chat_body(max_tokens=50, stream=True)
    answer = service.request("POST", "/v1/messages", json=body)
    assert answer.status_code == 503
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["message"] == "it died"


def test_a_message_stream_that_breaks_off_says_why(service: Service) -> None:
    service.engine.script = lambda _: ["<|channel|>final<|message|>Hello there", EngineLostError("it died")]
    body = chat_body(max_tokens=50, stream=True)
    answer = service.request("POST", "/v1/messages", json=body)
    assert answer.status_code == 200
    assert '"message": "it died"' in answer.text
    assert answer.text.rstrip().splitlines()[-2] == "event: error"
