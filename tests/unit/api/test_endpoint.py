"""Requests over HTTP to an application whose engines are a script: admission, errors, streams, clients."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import Message

from serve_app.admission.client import MESSAGES as REFUSALS
from serve_app.admission.protocol import Ask, Reason, Tier
from serve_app.api.repair_report import RepairReport
from serve_app.errors import (
    BadRequestError,
    EngineLostError,
    EngineUnavailableError,
    KeyLimitError,
    OverloadedError,
)
from serve_app.harmony.tokens import Vocabulary
from tests.unit.api.scripted import (
    BODIES,
    CHAT,
    COMPLETIONS,
    MAX_MODEL_LEN,
    MESSAGES,
    MODEL,
    REPLY,
    RESPONSES,
    Sent,
    Service,
    events_of,
    scope_of,
    with_service,
)

PATHS = sorted(BODIES)
SECRET = "sk-a-secret-key-0123456789"


def message_of(answer: Any) -> str:
    """The error's message; checks that the body is in the API's form and short."""
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.content) < 2048
    body = answer.json()
    if "type" in body:
        assert body["type"] == "error"
        assert set(body["error"]) >= {"type", "message"}
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}
    message: str = body["error"]["message"]
    return message


# --- answers -------------------------------------------------------------------------------------------


def text_of(path: str, body: Any) -> str:
    """What an answer says, in each API."""
    if path == CHAT:
        return str(body["choices"][0]["message"]["content"])
    if path == COMPLETIONS:
        return str(body["choices"][0]["text"])
    if path == RESPONSES:
        return "".join(
            part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]
        )
    return "".join(block["text"] for block in body["content"] if block["type"] == "text")


@pytest.mark.parametrize("path", PATHS)
def test_an_answer(path: str) -> None:
    async def work(service: Service) -> None:
        answer = await service.post(path)
        assert answer.status_code == 200
        assert "Hello there, friend." in text_of(path, answer.json())
        assert service.asked == [Ask(0, "", Tier.DEFAULT, 1)]
        name = "request-id" if path == MESSAGES else "x-request-id"
        assert answer.headers[name].startswith("req_")
        assert "retry-after" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]

    with_service(work)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_nul_is_accepted_back_where_the_model_has_said_it(path: str) -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda _: [REPLY.replace("there", "\0")]
        body = (await service.post(path)).json()
        assert "Hello \0, friend." in text_of(path, body)
        user = {"role": "user", "content": "And?"}
        if path == CHAT:
            turns = {"messages": [body["choices"][0]["message"], user]}
        elif path == RESPONSES:
            turns = {"input": [*body["output"], user]}
        else:
            turns = {"messages": [{"role": "assistant", "content": body["content"]}, user]}
        assert (await service.post(path, **turns)).status_code == 200
        assert "Hello \0, friend." in service.engines.started[-1].prompt

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream(path: str) -> None:
    async def work(service: Service) -> None:
        answer = await service.post(path, stream=True)
        assert len(events_of(answer)) > 3
        assert answer.headers["cache-control"] == "no-cache"

    with_service(work)


def test_choices_have_places_and_seeds_of_their_own() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda one: [REPLY.replace("friend", f"friend {one.choice}")]
        choices = (await service.post(n=3)).json()["choices"]
        assert [choice["message"]["content"] for choice in choices] == [
            f"Hello there, friend {number}." for number in range(3)
        ]
        assert [one.seed_offset for one in service.engines.started] == [0, 1, 2]
        assert len({id(one.grant) for one in service.engines.started}) == 3
        assert service.asked == [Ask(0, "", Tier.DEFAULT, 3)]

    with_service(work)


def test_several_prompts_have_choices_of_their_own() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda one: [f" {one.prompt}{one.seed_offset}<|return|>"]
        answer = await service.post(COMPLETIONS, prompt=["a", "b"], n=2, service_tier="flex")
        assert [choice["text"] for choice in answer.json()["choices"]] == [" a0", " a1", " b0", " b1"]
        assert answer.json()["usage"]["prompt_tokens"] == 2
        assert service.asked == [Ask(0, "", Tier.FLEX, 4)]

    with_service(work)


@pytest.mark.parametrize(
    ("path", "body"), [(RESPONSES, {"n": 100}), (MESSAGES, {"n": 100}), (CHAT, {"prompt": ["a"] * 100})]
)
def test_fields_of_another_api_take_no_places(path: str, body: dict[str, Any]) -> None:
    async def work(service: Service) -> None:
        await service.post(path, **body)
        assert [ask.num_sequences for ask in service.asked] == [1]

    with_service(work, max_queued=1000)


def test_the_name_of_a_request_is_kept_if_it_is_one() -> None:
    async def work(service: Service) -> None:
        given = await service.post(headers={"x-request-id": "bench-1-2"})
        assert given.headers["x-request-id"] == service.engines.started[0].request_id == "bench-1-2"
        strange = await service.post(headers={"x-request-id": "a b" * 100})
        assert strange.headers["x-request-id"].startswith("req_")

    with_service(work)


def test_a_stop_string_ends_the_sequence_in_its_engine() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda _: [REPLY.removesuffix("<|return|>"), None]
        for stream in (False, True):
            answer = await service.post(stop=["there,"], stream=stream)
            assert answer.status_code == 200
            await service.engines.is_left.wait()
            service.engines.is_left.clear()
        assert service.engines.num_left_early == 2

    with_service(work)


# --- refused before anything runs ----------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"model": ', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"a": ' * 5000, "not valid JSON"),
        (b'{"a": "x\\u0000y"}', "NUL"),
        ('{"model": "x"}'.encode("utf-16"), "not valid JSON"),
    ],
    ids=["nothing", "cut", "no UTF-8", "a list", "deep", "NUL", "UTF-16"],
)
def test_what_is_no_request(path: str, content: bytes, words: str) -> None:
    async def work(service: Service) -> None:
        headers = {"content-type": "application/json"}
        answer = await service.request("POST", path, content=content, headers=headers)
        assert answer.status_code == 400
        message_of(answer)
        assert service.asked == []

    with_service(work)


def test_a_page_cannot_post_without_asking_the_browser() -> None:
    async def work(service: Service) -> None:
        content = json.dumps(BODIES[CHAT]).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            answer = await service.request("POST", CHAT, content=content, headers={"content-type": kind})
            assert (answer.status_code, "content-type" in message_of(answer)) == (400, True)

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_model(path: str) -> None:
    async def work(service: Service) -> None:
        answer = await service.post(path, model="gpt-5")
        assert answer.status_code == 404
        assert "gpt-5" in message_of(answer)
        if path != MESSAGES:
            assert answer.json()["error"]["code"] == "model_not_found"
        assert service.asked == []

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(path: str, stream: bool) -> None:
    async def work(service: Service) -> None:
        field = {CHAT: "messages", MESSAGES: "messages", RESPONSES: "input", COMPLETIONS: "prompt"}[path]
        text = "hello " * MAX_MODEL_LEN
        value = [{"role": "user", "content": text}] if field == "messages" else text
        answer = await service.post(path, stream=stream, **{field: value})
        assert answer.status_code == 400
        assert "tokens" in message_of(answer)
        if path != MESSAGES:
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", field)
        assert service.engines.started == []

    with_service(work)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "max_tokens"),
        (CHAT, "max_completion_tokens"),
        (COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
        (MESSAGES, "max_tokens"),
    ],
)
def test_more_tokens_than_the_model_has(path: str, field: str) -> None:
    async def work(service: Service) -> None:
        answer = await service.post(path, **{field: MAX_MODEL_LEN + 1})
        assert answer.status_code == 400
        assert field in message_of(answer)

    with_service(work)


def test_a_grammar_that_is_none_asks_nobody() -> None:
    async def work(service: Service) -> None:
        async def refuse(tag: str, param: str) -> None:
            raise BadRequestError("no grammar", param)

        service.check_grammar = refuse
        answer = await service.post(response_format={"type": "json_object"}, stream=True)
        assert (answer.status_code, message_of(answer)) == (400, "no grammar")
        assert answer.json()["error"]["param"] == "response_format"
        assert service.asked == []

    with_service(work)


@pytest.mark.parametrize(
    "options",
    [{"allowed_token_ids": [1]}, {"bad_words": ["a"]}, {"min_tokens": 5}, {"stop_token_ids": [200008]}],
    ids=str,
)
def test_what_may_leave_a_grammar_without_tokens(options: dict[str, Any]) -> None:
    async def work(service: Service) -> None:
        answer = await service.post(response_format={"type": "json_object"}, **options)
        [name] = options
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
        assert "response_format" in message_of(answer)
        assert (await service.post(**options)).status_code == 200

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue(path: str, stream: bool) -> None:
    async def work(service: Service) -> None:
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answer = await service.post(path, stream=stream)
        assert (answer.status_code, message_of(answer)) == (429, REFUSALS[Reason.QUEUE_FULL])
        assert int(answer.headers["retry-after"]) >= 1
        assert service.engines.started == []
        running.close()

    with_service(work, max_concurrent_requests=1, max_queued=0)


@pytest.mark.parametrize("path", PATHS)
def test_who_waits_in_vain_has_a_status(path: str) -> None:
    """And a time to come back, streamed or not."""

    async def work(service: Service) -> None:
        for stream in (False, True):
            running = service.gate.ask("", Tier.DEFAULT, 1)
            answering = asyncio.create_task(service.post(path, stream=stream))
            await service.engines.until_started(1)
            urgent = service.gate.ask("", Tier.PRIORITY, 1)  # fills the queue
            refused = await answering
            assert (refused.status_code, message_of(refused)) == (429, REFUSALS[Reason.QUEUE_FULL])
            assert refused.headers["retry-after"] == "1"
            service.engines.started.clear()
            running.close()
            urgent.close()

    with_service(work, max_concurrent_requests=1, max_queued=1)


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_waited_is_answered_in_full(stream: bool) -> None:
    async def work(service: Service) -> None:
        at_once = await service.post(stream=stream)
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answering = asyncio.create_task(service.post(stream=stream))
        await service.engines.until_started(2)
        running.close()
        later = await answering
        assert (later.status_code, later.text.count("Hello")) == (200, at_once.text.count("Hello"))

    with_service(work, max_concurrent_requests=1, max_queued=1)


def test_limits_of_a_key_are_said_and_the_key_never_kept() -> None:
    async def work(service: Service) -> None:
        headers = {"authorization": f"Bearer {SECRET}"}
        answer = await service.post(headers=headers)
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        open_one = service.gate.ask(service.asked[0].key, Tier.DEFAULT, 1)
        refused = await service.post(headers=headers)
        assert (refused.status_code, message_of(refused)) == (429, REFUSALS[Reason.KEY_REQUESTS])
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        open_one.close()
        assert SECRET not in repr(service.asked)

    with_service(work, max_requests_per_key=1)


# --- errors of engines ---------------------------------------------------------------------------------

ENGINE_ERRORS = [
    EngineLostError("the replica has died"),
    EngineUnavailableError("no engine replica is ready", 30.0),
    OverloadedError("the queue is full", 4.2),
    KeyLimitError("the key has used its tokens"),
    BadRequestError("too hot", "temperature"),
    RuntimeError("a wire broke"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", ENGINE_ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_before_the_first_token_is_a_status(path: str, stream: bool, error: Exception) -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda _: [error]
        answer = await service.post(path, stream=stream)
        assert answer.status_code == getattr(error, "status", 500)
        assert str(error) in message_of(answer)
        after = getattr(error, "retry_after_s", None)
        assert answer.headers.get("retry-after") == (None if after is None else str(int(after + 0.9)))

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
def test_an_error_after_the_first_tokens(path: str) -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda _: [
            "<|channel|>final<|message|>Hello there",
            EngineLostError("the replica has died"),
        ]
        whole = await service.post(path)
        assert (whole.status_code, message_of(whole)) == (503, "the replica has died")
        events = events_of(await service.post(path, stream=True))
        assert "Hello" in json.dumps(events)
        assert "the replica has died" in json.dumps(events[-1])

    with_service(work)


def test_requests_side_by_side_fail_alone() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda one: [
            RuntimeError("a wire broke") if one.sampling.seed == 1 else REPLY
        ]
        answers = await asyncio.gather(*(service.post(seed=seed) for seed in range(3)))
        assert [answer.status_code for answer in answers] == [200, 500, 200]

    with_service(work)


def test_one_choice_that_fails_ends_the_others() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda one: [EngineLostError("it has died")] if one.choice else [None]
        answer = await service.post(n=3)
        assert (answer.status_code, message_of(answer)) == (503, "it has died")

    with_service(work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_of_an_encoder_is_one_requests_own(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(service: Service) -> None:
        from serve_app.api.generation import Run

        read = Run._read
        monkeypatch.setattr(Run, "_read", lambda *_: 1 / 0)
        answer = await service.post(stream=stream)
        assert answer.status_code == 500
        message_of(answer)
        monkeypatch.setattr(Run, "_read", read)
        assert (await service.post()).status_code == 200

    with_service(work)


def test_a_choice_that_cannot_be_sent_takes_the_others_with_it() -> None:
    async def work(service: Service) -> None:
        start = service.engines.start

        def start_one(*arguments: Any) -> Any:
            if service.engines.started:
                raise OverflowError("too many bits")
            return start(*arguments)

        service.engines.start = start_one  # type: ignore[method-assign, assignment]
        service.engines.script = lambda _: [None]
        answer = await service.post(n=3)
        assert answer.status_code == 500

    with_service(work)


# --- slow and absent clients ---------------------------------------------------------------------------


def test_a_client_that_does_not_read_gets_an_error_and_its_sequence_ends() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda _: ["<|channel|>final<|message|>" + "word " * 2000, None]
        sent: list[Message] = []
        reads = asyncio.Event()

        async def send(message: Message) -> None:
            sent.append(dict(message))
            if message["type"] == "http.response.body":
                await reads.wait()

        async def receive() -> Message:
            if not sent and not received:
                received.append(True)
                return {"type": "http.request", "body": json.dumps(BODIES[CHAT] | {"stream": True}).encode()}
            await asyncio.Event().wait()
            raise AssertionError

        received: list[bool] = []
        answering = asyncio.create_task(service.app(scope_of(CHAT), receive, send))
        await service.engines.is_left.wait()
        reads.set()
        await answering
        text = b"".join(message.get("body", b"") for message in sent).decode()
        assert "unread" in text
        assert text.rstrip().endswith("data: [DONE]")

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_client_that_goes_ends_its_request(path: str, stream: bool, is_cancelled: bool) -> None:
    """Said by a message, or by cancelling the task, as Serve does."""

    async def work(service: Service) -> None:
        service.engines.script = lambda _: ["<|channel|>final<|message|>Hello", None]
        content = json.dumps(BODIES[path] | {"stream": stream}).encode()
        arrived: list[Message] = [{"type": "http.request", "body": content}]

        async def receive() -> Message:
            if arrived:
                return arrived.pop()
            await (asyncio.Event() if is_cancelled else service.engines.waits).wait()
            return {"type": "http.disconnect"}

        answering = asyncio.create_task(service.app(scope_of(path), receive, Sent()))
        await service.engines.waits.wait()
        if is_cancelled:
            answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering
        assert answering.cancelled() == is_cancelled
        await service.engines.is_left.wait()

    with_service(work)


def test_a_client_that_goes_while_it_waits_for_the_gate() -> None:
    async def work(service: Service) -> None:
        asked = asyncio.Event()
        held: list[Any] = []
        send = service.gate.send

        def noted(message: Any) -> None:
            held.append(message)
            asked.set()

        service.gate.send = noted  # type: ignore[method-assign]
        content = json.dumps(BODIES[CHAT]).encode()
        arrived: list[Message] = [{"type": "http.request", "body": content}]

        async def receive() -> Message:
            if arrived:
                return arrived.pop()
            await asked.wait()
            return {"type": "http.disconnect"}

        sent = Sent()
        await service.app(scope_of(CHAT), receive, sent)
        assert sent == []
        for message in held:
            send(message)  # they arrive now

    with_service(work)


def test_a_client_that_goes_before_its_body_is_complete() -> None:
    async def work(service: Service) -> None:
        arrived: list[Message] = [
            {"type": "http.disconnect"},
            {"type": "http.request", "body": b"{", "more_body": True},
        ]

        async def receive() -> Message:
            return arrived.pop()

        sent = Sent()
        await service.app(scope_of(CHAT), receive, sent)
        assert sent == []
        assert service.asked == []

    with_service(work)


# --- keep-alive ----------------------------------------------------------------------------------------


def test_a_stream_that_waits_is_kept_alive() -> None:
    async def work(service: Service) -> None:
        running = service.gate.ask("", Tier.DEFAULT, 1)
        content = json.dumps(BODIES[CHAT] | {"stream": True}).encode()
        arrived: list[Message] = [{"type": "http.request", "body": content}]

        async def receive() -> Message:
            if arrived:
                return arrived.pop()
            await asyncio.Event().wait()
            raise AssertionError

        sent = Sent()
        answering = asyncio.create_task(service.app(scope_of(CHAT), receive, sent))
        await sent.until(lambda: sent.text.count(": keep-alive\n\n") == 2)
        assert "data:" not in sent.text
        running.close()
        await answering
        assert sent[0]["status"] == 200
        assert sent.text.rstrip().endswith("data: [DONE]")

    with_service(work, max_concurrent_requests=1, app={"keep_alive_s": 0.01})


def test_what_fails_after_a_comment_is_an_event() -> None:
    async def work(service: Service) -> None:
        go_on = asyncio.Event()
        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.engines.script = lambda _: [EngineLostError("the replica has died")]
        content = json.dumps(BODIES[MESSAGES] | {"stream": True}).encode()
        arrived: list[Message] = [{"type": "http.request", "body": content}]

        async def receive() -> Message:
            if arrived:
                return arrived.pop()
            await go_on.wait()
            return {"type": "http.disconnect"}

        sent = Sent()
        answering = asyncio.create_task(service.app(scope_of(MESSAGES), receive, sent))
        await sent.until(lambda: "keep-alive" in sent.text)
        running.close()
        await answering
        go_on.set()
        assert "event: error" in sent.text
        assert "the replica has died" in sent.text

    with_service(work, max_concurrent_requests=1, app={"keep_alive_s": 0.01})


# --- other routes --------------------------------------------------------------------------------------


def test_health_and_models_answer_to_head() -> None:
    async def work(service: Service) -> None:
        for path in ("/health", "/health/ready", "/health/live", "/v1/models", f"/v1/models/{MODEL}"):
            got, headed = await service.request("GET", path), await service.request("HEAD", path)
            assert (got.status_code, headed.status_code, headed.content) == (200, 200, b"")

    with_service(work)


def test_no_engine_is_ready() -> None:
    def none() -> int:
        raise EngineUnavailableError("no engine replica is ready", 30.0)

    async def work(service: Service) -> None:
        answer = await service.request("GET", "/health")
        assert (answer.status_code, message_of(answer)) == (503, "no engine replica is ready")
        assert (await service.request("GET", "/health/live")).status_code == 200

    with_service(work, app={"num_ready_engines": none})


def test_models_by_name() -> None:
    async def work(service: Service) -> None:
        listed = (await service.request("GET", "/v1/models")).json()["data"]
        for model in listed:
            assert (await service.request("GET", f"/v1/models/{model['id']}")).json() == model
        assert [model["id"] for model in listed] == [MODEL, "openai/gpt-oss-20b"]
        missing = await service.request("GET", "/v1/models/gpt-5")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")

    with_service(work)


def test_counting_tokens_needs_no_engine() -> None:
    async def work(service: Service) -> None:
        used = (await service.post(RESPONSES)).json()["usage"]["input_tokens"]
        counted = await service.post(f"{RESPONSES}/input_tokens", **BODIES[RESPONSES])
        assert counted.json() == {"object": "response.input_tokens", "input_tokens": used}
        body = {key: value for key, value in BODIES[MESSAGES].items() if key != "max_tokens"}
        assert (await service.post(f"{MESSAGES}/count_tokens", **body)).json() == {"input_tokens": used}
        assert len(service.asked) == 1

    with_service(work)


def test_a_long_text_is_tokenized_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    encode = Vocabulary.encode_prompt

    def noted(self: Vocabulary, *arguments: Any, **options: Any) -> list[int]:
        threads.append(threading.current_thread())
        return encode(self, *arguments, **options)

    monkeypatch.setattr(Vocabulary, "encode_prompt", noted)

    async def work(service: Service) -> None:
        for text in ("short", "long " * 20_000):
            answer = await service.request("POST", "/tokenize", json={"prompt": text})
            assert answer.json()["count"] == len(answer.json()["tokens"]) > 0
        main = threading.main_thread()
        assert [thread is main for thread in threads] == [True, False]

    with_service(work)


@pytest.mark.parametrize(
    "path", ["/tokenize", "/detokenize", f"{RESPONSES}/input_tokens", f"{MESSAGES}/count_tokens"]
)
def test_no_depth_is_a_fault_of_the_service(path: str) -> None:
    async def work(service: Service) -> None:
        for depth in (100, 300, 900, 950, 1000, 5000):
            deep = b"[" * depth + b"]" * depth
            fields = b",".join(b'"%b":%b' % (name, deep) for name in (b"tools", b"messages", b"input"))
            headers = {"content-type": "application/json"}
            answer = await service.request("POST", path, content=b"{%b}" % fields, headers=headers)
            assert answer.status_code == 400, answer.text
            message_of(answer)

    with_service(work)


def test_nothing_is_stored() -> None:
    async def work(service: Service) -> None:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = await service.request(method, f"{RESPONSES}/resp_1{path}")
            assert answer.status_code == 404
            assert "stores nothing" in message_of(answer)

    with_service(work)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/nothing", 404), ("GET", CHAT, 405), ("GET", MESSAGES, 405), ("POST", f"{MESSAGES}/x", 404)],
)
def test_no_such_route(method: str, path: str, status: int) -> None:
    async def work(service: Service) -> None:
        answer = await service.request(method, path)
        assert answer.status_code == status
        message_of(answer)
        assert ("type" in answer.json()) == path.startswith(MESSAGES)

    with_service(work)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_declared", [False, True])
def test_a_body_that_is_too_large(path: str, is_declared: bool) -> None:
    async def work(service: Service) -> None:
        content = json.dumps(BODIES[path] | {"padding": "x" * 2000}).encode()

        async def pieces() -> Any:
            yield content

        headers = {"content-type": "application/json"}
        sent = content if is_declared else pieces()
        answer = await service.request("POST", path, content=sent, headers=headers)
        assert answer.status_code == 413
        assert "1024 bytes" in message_of(answer)
        assert ("type" in answer.json()) == (path == MESSAGES)

    with_service(work, app={"max_body_bytes": 1024})


def test_pages_of_other_origins() -> None:
    async def work(service: Service) -> None:
        asks = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        preflight = await service.request("OPTIONS", CHAT, headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "access-control-allow-credentials" not in preflight.headers
        answer = await service.post(headers={"origin": "http://localhost:3000"})
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        other = await service.post(headers={"origin": "http://elsewhere"})
        assert "access-control-allow-origin" not in other.headers

    with_service(work, app={"origins": ["http://localhost:3000"]})


def test_by_default_no_page_may() -> None:
    async def work(service: Service) -> None:
        asks = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        assert (await service.request("OPTIONS", CHAT, headers=asks)).status_code == 405
        answer = await service.post(headers={"origin": "http://localhost:3000"})
        assert "access-control-allow-origin" not in answer.headers

    with_service(work)


# --- repairs -------------------------------------------------------------------------------------------


def test_repairs_are_counted_by_kind_and_api() -> None:
    async def work(service: Service) -> None:
        service.engines.script = lambda _: ["<|channel|>final<|message|>Hi<|end|>stray text<|return|>"]
        await service.post()
        await service.post(MESSAGES, stream=True)
        assert {api for api, _, _ in service.repairs} == {"chat", "messages"}
        service.repairs.clear()
        service.engines.script = lambda _: [REPLY]
        await service.post()
        assert service.repairs == []

    with_service(work)


def test_what_was_repaired_no_time_is_not_counted() -> None:
    """Ray's counters refuse a zero."""
    found: list[tuple[str, str, int]] = []
    RepairReport(lambda *repair: found.append(repair)).add("chat", [("stray_text", 0), ("stray_token", 2)])
    assert found == [("chat", "stray_token", 2)]


def test_events_of_a_responses_stream_are_numbered_in_order() -> None:
    async def work(service: Service) -> None:
        events = events_of(await service.post(RESPONSES, stream=True))
        assert [event["sequence_number"] for event in events] == list(range(len(events)))

    with_service(work)


def test_errors_are_short_whatever_is_sent() -> None:
    async def work(service: Service) -> None:
        for body in (
            {"model": "x" * 50_000},
            {"messages": [{"role": "x" * 50_000, "content": ""}]},
            {"messages": [{"role": "user", "content": [{"type": "\U0001f600" * 20_000}]}]},
            {"x" * 50_000 + "\0": 1},
            {"reasoning_effort": "\u0001" * 50_000},
            {"tools": [{"type": "function", "function": {"name": "f" * 50_000}}]},
        ):
            answer = await service.post(**body)
            assert answer.status_code in (400, 404)
            message_of(answer)

    with_service(work)
