"""HTTP requests through middleware and dependency, at an ingress that cannot reach a gate."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Message, Send

from serve_app.admission.client import GateClient
from serve_app.admission.http import (
    CHAT,
    COMPLETIONS,
    GENERATING,
    Visit,
    current_visit,
    duration,
    headers,
    key_of,
    num_sequences_of,
    tier_of,
)
from serve_app.admission.messages import Ask, RateLimits, Tier
from serve_app.admission.places import Place
from serve_app.api.application import new_app
from serve_app.errors import EngineLostError, EngineUnavailableError, ServiceError
from tests.unit.admission.gates import client_of, run

BODY = {"messages": [{"role": "user", "content": "Hello"}]}
SECRET = "sk-a-secret-key-0123456789"

Handler = Callable[[], Awaitable[Any]]


class Service:
    """The application with a handler that a test gives, and the requests that the gate was asked for."""

    def __init__(self, gate: GateClient) -> None:
        self.gate = gate
        self.asked: list[Ask] = []
        self.handler: Handler = self.take_place
        self.app = self._new_app()
        ask = gate.ask

        def noted(key: str, tier: Tier, num_sequences: int) -> Any:
            ticket = ask(key, tier, num_sequences)
            self.asked.append(ticket.ask)
            return ticket

        gate.ask = noted  # type: ignore[method-assign]

    def _new_app(self) -> FastAPI:
        app = new_app(10_000, 100, lambda: 1, self.gate)

        async def handle(body: Any = None) -> Any:
            return await self.handler()

        for path in (*GENERATING, "/v1/tokenize"):
            app.post(path)(handle)
        return app

    async def take_place(self) -> dict[str, str]:
        """A handler that begins, and ends at once."""
        place = current_visit().take_place()
        try:
            return {"replica": await place.granted()}
        finally:
            place.release(30)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client

    async def post(self, path: str = CHAT, body: Any = BODY, **named: Any) -> httpx2.Response:
        async with self.client() as client:
            return await client.post(path, json=body, headers=named)

    @property
    def num_open(self) -> int:
        """Requests that the ingress has open; those of the stand-in for the gate are as many."""
        [known] = self.gate._own._ingresses.values()
        assert len(known.tickets) == len(self.gate._tickets)
        return len(known.tickets)

    def check_nothing_is_left(self) -> None:
        assert self.num_open == 0
        assert (self.gate._own.num_running, self.gate._own.num_waiting) == (0, 0)


def with_service(work: Callable[[Service], Coroutine[Any, Any, None]], *replicas: str, **rules: Any) -> None:
    async def inside() -> None:
        async with client_of(None, *(replicas or ("a",)), **rules) as (gate, _):
            await work(Service(gate))

    run(inside())


def limit_headers(answer: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}


# --- admitted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GENERATING))
def test_a_request_that_is_admitted(path: str) -> None:
    async def work(service: Service) -> None:
        answer = await service.post(path)
        assert (answer.status_code, answer.json()) == (200, {"replica": "a"})
        assert service.asked == [Ask(0, "", Tier.DEFAULT, 1)]
        assert limit_headers(answer) == {}
        assert "retry-after" not in answer.headers
        service.check_nothing_is_left()

    with_service(work)


def test_what_does_not_generate_asks_nobody() -> None:
    async def work(service: Service) -> None:
        async def handler() -> str:
            return "done"

        service.handler = handler
        assert (await service.post("/v1/tokenize")).json() == "done"
        async with service.client() as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get(CHAT)).status_code == 405
        assert service.asked == []

    with_service(work)


def test_a_request_that_breaks_a_rule_asks_nobody() -> None:
    async def work(service: Service) -> None:
        answer = await service.post(body={"messages": []})
        assert answer.status_code == 400
        assert service.asked == []

    with_service(work)


# --- refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GENERATING))
def test_a_full_queue(path: str) -> None:
    async def work(service: Service) -> None:
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answer = await service.post(path)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert limit_headers(answer) == {}
        error = {
            "message": "all engines are busy and the queue is full",
            "type": "Too Many Requests",
            "param": None,
            "code": 429,
        }
        expected = {"type": "error", "error": error} if path == "/v1/messages" else {"error": error}
        assert answer.json() == expected
        running.close()
        service.check_nothing_is_left()

    with_service(work, max_queued=0)


def test_no_engine() -> None:
    async def work(service: Service) -> None:
        service.gate.set_replicas([])
        service.gate._decide_alone()  # anew: it has never seen an engine
        answer = await service.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert answer.json()["error"]["message"].startswith("no engine replica is ready")
        service.check_nothing_is_left()

    with_service(work)


def test_who_waits_in_vain_is_told_when_to_come_back() -> None:
    """Refused after admission, when its handler has begun: whatever answers, the header is there."""

    async def work(service: Service) -> None:
        async def handler() -> Any:
            place = current_visit().take_place()
            urgent = service.gate.ask("", Tier.PRIORITY, 1)
            try:
                await place.granted()
            finally:
                urgent.close()
                place.release(0)

        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.handler = handler
        answer = await service.post(body=BODY | {"service_tier": "flex"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        running.close()
        service.check_nothing_is_left()

    with_service(work, max_queued=1)


def refusal_of(visit: Visit) -> ServiceError | None:
    return visit.refusal


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (EngineUnavailableError("none", 29.01), 503, "30"),
        (EngineUnavailableError("none", 30.0), 503, "30"),
        (EngineUnavailableError("none"), 503, None),
        (EngineUnavailableError("none", 5.0), 500, None),  # whatever else went wrong
    ],
)
def test_retry_after_is_whole_seconds_and_never_too_few(
    error: ServiceError, status: int, expected: str | None
) -> None:
    async def work(service: Service) -> None:
        visit = Visit("")
        assert refusal_of(visit) is None
        visit.ticket = service.gate.ask("", Tier.DEFAULT, 1)
        assert refusal_of(visit) is None
        visit.ticket.refuse(error)
        assert refusal_of(visit) is error
        assert dict(headers(visit, status)).get("retry-after") == expected

    with_service(work)


def test_an_error_that_says_nothing_of_when_gets_no_header() -> None:
    async def work(service: Service) -> None:
        async def handler() -> None:
            raise EngineLostError("the replica has died")

        service.handler = handler
        answer = await service.post()
        assert answer.status_code == 503
        assert "retry-after" not in answer.headers
        service.check_nothing_is_left()

    with_service(work)


# --- limits of a key -----------------------------------------------------------------------------------


def test_limits_are_said_with_every_answer() -> None:
    async def work(service: Service) -> None:
        answer = await service.post(authorization=f"Bearer {SECRET}")
        assert answer.status_code == 200
        assert limit_headers(answer) == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "0ms",
            "x-ratelimit-limit-tokens": "50",
            "x-ratelimit-remaining-tokens": "50",
            "x-ratelimit-reset-tokens": "0ms",
        }
        await service.post(authorization=f"Bearer {SECRET}")  # 60 tokens are used, of 50
        refused = await service.post(authorization=f"Bearer {SECRET}")
        assert refused.status_code == 429
        assert refused.json()["error"]["message"] == "this API key has used its tokens for this minute"
        said = limit_headers(refused)
        assert (said["x-ratelimit-limit-tokens"], said["x-ratelimit-remaining-tokens"]) == ("50", "0")
        assert said["x-ratelimit-remaining-requests"] == "2"
        assert re.fullmatch(r"1m\d+(\.\d)?s", said["x-ratelimit-reset-tokens"])
        assert refused.headers["retry-after"].isdigit()
        other = await service.post(authorization="Bearer other")
        assert other.status_code == 200
        service.check_nothing_is_left()

    with_service(work, max_requests_per_key=2, max_tokens_per_minute_per_key=50)


def test_requests_of_a_key_at_a_time() -> None:
    async def work(service: Service) -> None:
        open_one = service.gate.ask(key_of(Headers({"x-api-key": "k"})), Tier.DEFAULT, 1)
        refused = await service.post(**{"x-api-key": "k"})
        assert refused.status_code == 429
        assert refused.json()["error"]["message"].startswith("this API key has as many requests open")
        assert limit_headers(refused).keys() == {
            f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")
        }
        open_one.close()
        service.check_nothing_is_left()

    with_service(work, max_requests_per_key=1, max_concurrent_requests=5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0201, "21ms"),
        (0.999, "999ms"),
        (1, "1s"),
        (1.41, "1.5s"),
        (59.95, "1m0s"),
        (60, "1m0s"),
        (361.5, "6m1.5s"),
        (7200, "120m0s"),
    ],
)
def test_durations_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_only_limits_that_there_are_are_said() -> None:
    visit = Visit("")
    assert list(headers(visit, 200)) == []

    class Limited:
        refusal = None
        limits = RateLimits(None, 0, 0.0, 60, 30, 30.0)

    visit.ticket = Limited()  # type: ignore[assignment]
    assert dict(headers(visit, 200)) == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "30",
        "x-ratelimit-reset-tokens": "30s",
    }


# --- keys ----------------------------------------------------------------------------------------------


def test_a_key_is_told_apart_and_never_kept() -> None:
    digest = key_of(Headers({"authorization": f"Bearer {SECRET}"}))
    assert re.fullmatch(r"[0-9a-f]{16}", digest)
    assert not any(SECRET[start : start + 6] in digest for start in range(len(SECRET) - 5))
    assert digest == key_of(Headers({"authorization": f"bearer   {SECRET} "}))
    assert digest == key_of(Headers({"x-api-key": SECRET}))  # as Anthropic's clients send it
    assert digest != key_of(Headers({"x-api-key": SECRET + "0"}))


@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer "}, {"authorization": ""}, {"x-api-key": ""}])
def test_requests_without_a_key_share_one(sent: dict[str, str]) -> None:
    assert key_of(Headers(sent)) == ""


def test_no_key_is_in_what_the_gate_is_told_or_remembers() -> None:
    async def work(service: Service) -> None:
        await service.post(authorization=f"Bearer {SECRET}")
        await service.post(**{"x-api-key": SECRET})
        assert len({ask.key for ask in service.asked}) == 1
        assert SECRET not in repr(service.asked)
        assert SECRET not in repr(list(service.gate._own._keys._uses))

    with_service(work, max_requests_per_key=1)


# --- tiers and sequences -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        ("priority", Tier.PRIORITY),
        ("flex", Tier.FLEX),
        ("default", Tier.DEFAULT),
        ("auto", Tier.DEFAULT),
        ("scale", Tier.DEFAULT),
        ("FLEX", Tier.DEFAULT),
        ("", Tier.DEFAULT),
        (None, Tier.DEFAULT),
        (0, Tier.DEFAULT),
        (True, Tier.DEFAULT),
        ([], Tier.DEFAULT),
        (["flex"], Tier.DEFAULT),
        ({"flex": 1}, Tier.DEFAULT),
    ],
)
def test_service_tiers(value: Any, tier: Tier) -> None:
    assert tier_of({"service_tier": value}) is tier


@pytest.mark.parametrize("body", [None, [], "flex", 3, {}])
def test_bodies_that_say_nothing(body: Any) -> None:
    assert tier_of(body) is Tier.DEFAULT
    assert {num_sequences_of(path, body) for path in GENERATING} == {1}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, 1),
        (5, 5),
        (0, 1),
        (-3, 1),
        (None, 1),
        ("5", 1),
        (2.5, 1),
        ([3], 1),
        (True, 1),
        (10**30, 128),
    ],
)
def test_how_many_sequences_n_asks_for(path: str, n: Any, expected: int) -> None:
    assert num_sequences_of(path, {"n": n}) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": []}, 1),
        ({"prompt": ["a"]}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": ["a", "b", "c"], "n": 4}, 12),
        ({"prompt": [1, 2, 3]}, 1),  # token ids
        ({"prompt": [[1, 2], [3]], "n": 2}, 4),
        ({"prompt": ["a"] * 200}, 128),
        ({"prompt": {"a": 1, "b": 2}}, 1),
    ],
)
def test_how_many_sequences_prompts_ask_for(body: dict[str, Any], expected: int) -> None:
    assert num_sequences_of(COMPLETIONS, body) == expected


@pytest.mark.parametrize("path", sorted(GENERATING - {COMPLETIONS}))
def test_prompts_are_of_completions_only(path: str) -> None:
    assert num_sequences_of(path, {"prompt": ["a", "b", "c"]}) == 1


@pytest.mark.parametrize("path", sorted(GENERATING - {COMPLETIONS, CHAT}))
def test_n_is_of_chats_and_completions_only(path: str) -> None:
    assert num_sequences_of(path, {"n": 5}) == 1


def test_tier_and_sequences_reach_the_gate() -> None:
    async def work(service: Service) -> None:
        await service.post("/v1/completions", {"prompt": ["a", "b"], "n": 3, "service_tier": "flex"})
        assert service.asked == [Ask(0, "", Tier.FLEX, 6)]
        service.check_nothing_is_left()

    with_service(work)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "a", "n": 100}),
        ("/v1/messages", BODY | {"n": 100}),
        (CHAT, BODY | {"prompt": ["a"] * 100}),
    ],
)
def test_fields_of_another_api_take_no_places(path: str, body: dict[str, Any]) -> None:
    """They are ignored by the handler: the places would be held, and nothing would run in them."""

    async def work(service: Service) -> None:
        await service.post(path, body)
        assert [ask.num_sequences for ask in service.asked] == [1]

    with_service(work, max_queued=1000)


# --- the end -------------------------------------------------------------------------------------------


def test_a_request_is_open_until_the_last_byte() -> None:
    async def work(service: Service) -> None:
        open_during: list[int] = []

        async def chunks() -> AsyncIterator[str]:
            for _ in range(3):
                open_during.append(service.num_open)
                yield "data: {}\n\n"

        async def handler() -> StreamingResponse:
            return StreamingResponse(chunks(), media_type="text/event-stream")

        service.handler = handler
        assert (await service.post()).status_code == 200
        assert open_during == [1, 1, 1]
        service.check_nothing_is_left()

    with_service(work)


def test_a_handler_that_raises_leaves_nothing_open() -> None:
    async def work(service: Service) -> None:
        async def handler() -> None:
            place = current_visit().take_place()
            try:
                assert service.num_open == 1
                raise RuntimeError("a wire broke")
            finally:
                place.release(0)

        service.handler = handler
        assert (await service.post()).status_code == 500
        service.check_nothing_is_left()
        service.handler = service.take_place
        assert (await service.post()).status_code == 200

    with_service(work)


@pytest.mark.parametrize("is_admitted", [True, False])
def test_a_handler_that_is_cancelled_leaves_nothing_open(is_admitted: bool) -> None:
    """The client has gone: while its request runs, or while it waits in the line."""

    async def work(service: Service) -> None:
        waits = asyncio.Event()

        async def handler() -> None:
            place = current_visit().take_place()
            waits.set()
            try:
                await place.granted()
                await asyncio.Event().wait()
            finally:
                place.release(0)

        running = None if is_admitted else service.gate.ask("", Tier.DEFAULT, 1)
        service.handler = handler
        visit = asyncio.create_task(call(service.app))
        await waits.wait()
        assert service.num_open == (1 if is_admitted else 2)
        visit.cancel()
        with suppress(asyncio.CancelledError):
            await visit
        if running:
            running.close()
        service.check_nothing_is_left()

    with_service(work)


def test_a_client_that_goes_before_the_gate_has_answered_leaves_nothing_open() -> None:
    async def work(service: Service) -> None:
        asked = asyncio.Event()
        sent: list[Any] = []
        send = service.gate.send

        def noted(message: Any) -> None:
            sent.append(message)
            asked.set()

        service.gate.send = noted  # type: ignore[method-assign]
        visit = asyncio.create_task(call(service.app))
        await asked.wait()
        visit.cancel()
        with suppress(asyncio.CancelledError):
            await visit
        for message in sent:
            send(message)  # they arrive now
        service.check_nothing_is_left()

    with_service(work)


def test_a_handler_that_raises_before_its_call_leaves_nothing_open() -> None:
    async def work(service: Service) -> None:
        async def handler() -> None:
            raise RuntimeError("a wire broke")

        service.handler = handler
        assert (await service.post()).status_code == 500
        service.check_nothing_is_left()

    with_service(work)


def test_a_request_is_open_until_its_calls_have_ended() -> None:
    """Its response may end before: the last tokens overtake the reply to the call."""

    async def work(service: Service) -> None:
        places: list[Place] = []

        async def handler() -> str:
            places.append(current_visit().take_place())
            return await places[0].granted()

        service.handler = handler
        assert (await service.post()).status_code == 200
        assert service.num_open == 1
        places[0].release(30)
        service.check_nothing_is_left()

    with_service(work)


def test_requests_side_by_side_have_their_own_places() -> None:
    async def work(service: Service) -> None:
        answers = await asyncio.gather(*(service.post() for _ in range(6)))
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len(service.asked) == 6
        service.check_nothing_is_left()

    with_service(work)


# --- a response that begins before its request -----------------------------------------------------------


OPENING = ["event: response.created\ndata: {}\n\n", "event: response.in_progress\ndata: {}\n\n"]


class Early:
    """A handler of a stream, such as that of the Responses API: its first events need no engine."""

    def __init__(self, service: Service) -> None:
        self.has_opened = asyncio.Event()
        self.go_on = asyncio.Event()
        service.handler = self

    async def __call__(self) -> StreamingResponse:
        return StreamingResponse(self._events(current_visit()), media_type="text/event-stream")

    async def _events(self, visit: Visit) -> AsyncIterator[str]:
        for event in OPENING:
            yield event
        place = visit.take_place()
        self.has_opened.set()
        try:
            replica = await place.granted()
            yield f"data: {replica}\n\n"
            await self.go_on.wait()
            yield "data: [DONE]\n\n"
        finally:
            place.release(30)


class Sent(list[Message]):
    """What is sent to a client, in pieces as the server gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.has_grown = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        self.append(dict(message))
        self.has_grown.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.has_grown.clear()
            await self.has_grown.wait()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self).decode()


@pytest.mark.parametrize("path", sorted(GENERATING))
def test_a_stream_that_opened_while_its_request_waited_in_vain_is_a_429(path: str) -> None:
    async def work(service: Service) -> None:
        early = Early(service)
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answering = asyncio.create_task(service.post(path))
        await early.has_opened.wait()
        urgent = service.gate.ask("", Tier.PRIORITY, 1)
        answer = await answering
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.headers["content-type"] == "application/json"
        error = {
            "message": "all engines are busy and the queue is full",
            "type": "Too Many Requests",
            "param": None,
            "code": 429,
        }
        assert answer.json() == ({"type": "error"} if path == "/v1/messages" else {}) | {"error": error}
        running.close()
        urgent.close()
        service.check_nothing_is_left()

    with_service(work, max_queued=1)


def test_a_stream_that_opened_while_there_was_no_engine_is_a_503() -> None:
    async def work(service: Service) -> None:
        early = Early(service)
        service.gate.set_replicas([])
        answer = await service.post("/v1/responses")
        assert early.has_opened.is_set()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert answer.json()["error"]["message"].startswith("no engine replica is ready")
        service.check_nothing_is_left()

    with_service(work, max_wait_s=0.05)


def test_a_refusal_after_a_stream_has_opened_says_the_limits() -> None:
    async def work(service: Service) -> None:
        early = Early(service)
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answering = asyncio.create_task(service.post("/v1/responses"))
        await early.has_opened.wait()
        urgent = service.gate.ask("", Tier.PRIORITY, 1)
        said = limit_headers(await answering)
        assert said["x-ratelimit-limit-requests"] == "9"
        running.close()
        urgent.close()
        service.check_nothing_is_left()

    with_service(work, max_queued=1, max_requests_per_key=9)


def test_a_stream_whose_handler_says_nothing_of_the_refusal_is_refused_all_the_same() -> None:
    async def work(service: Service) -> None:
        async def events(visit: Visit) -> AsyncIterator[str]:
            yield OPENING[0]
            place = visit.take_place()
            urgent = service.gate.ask("", Tier.PRIORITY, 1)
            with suppress(ServiceError):
                await place.granted()
            place.release(0)
            urgent.close()
            yield "event: response.failed\ndata: {}\n\n"

        async def handler() -> StreamingResponse:
            return StreamingResponse(events(current_visit()), media_type="text/event-stream")

        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.handler = handler
        answer = await service.post("/v1/responses")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "response" not in answer.text
        running.close()
        service.check_nothing_is_left()

    with_service(work, max_queued=1)


def test_a_stream_that_opens_while_its_request_waits_is_held_until_its_turn() -> None:
    async def work(service: Service) -> None:
        early, sent = Early(service), Sent()
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answering = asyncio.create_task(call(service.app, sent))
        await early.has_opened.wait()
        assert sent == []
        running.close()
        first_token = "data: a\n\n"
        await sent.until(lambda: first_token in sent.text)
        # Nothing is missing, and nothing of what follows is held.
        assert sent[0]["type"] == "http.response.start"
        assert sent[0]["status"] == 200
        assert (b"x-ratelimit-limit-requests", b"9") in sent[0]["headers"]
        assert sent.text == "".join(OPENING) + first_token
        early.go_on.set()
        await answering
        assert sent.text == "".join(OPENING) + first_token + "data: [DONE]\n\n"
        assert [message["type"] for message in sent].count("http.response.start") == 1
        assert not sent[-1].get("more_body")
        service.check_nothing_is_left()

    with_service(work, max_requests_per_key=9)


def test_a_stream_of_a_request_that_has_its_turn_is_not_held() -> None:
    async def work(service: Service) -> None:
        sent, go_on = Sent(), asyncio.Event()

        async def events() -> AsyncIterator[str]:
            yield OPENING[0]
            await go_on.wait()
            yield OPENING[1]

        async def handler() -> StreamingResponse:
            return StreamingResponse(events(), media_type="text/event-stream")

        service.handler = handler
        answering = asyncio.create_task(call(service.app, sent))
        await sent.until(lambda: sent.text == OPENING[0])
        go_on.set()
        await answering
        assert sent.text == "".join(OPENING)
        service.check_nothing_is_left()

    with_service(work)


def test_a_request_of_which_some_sequences_wait_is_not_held() -> None:
    async def work(service: Service) -> None:
        sent, go_on = Sent(), asyncio.Event()

        async def events() -> AsyncIterator[str]:
            yield OPENING[0]
            await go_on.wait()

        async def handler() -> StreamingResponse:
            return StreamingResponse(events(), media_type="text/event-stream")

        service.handler = handler
        answering = asyncio.create_task(call(service.app, sent, BODY | {"n": 3}))
        await sent.until(lambda: sent.text == OPENING[0])
        assert (service.gate._own.num_running, service.gate._own.num_waiting) == (1, 2)
        go_on.set()
        await answering
        service.check_nothing_is_left()

    with_service(work)


@pytest.mark.parametrize("status", [201, 400, 404, 429, 500, 503])
def test_another_status_than_200_is_said_at_once(status: int) -> None:
    """As vLLM finds fault with a request that waits."""

    async def work(service: Service) -> None:
        sent, go_on = Sent(), asyncio.Event()

        async def body() -> AsyncIterator[str]:
            yield "wrong"
            await go_on.wait()
            yield "!"

        async def handler() -> StreamingResponse:
            return StreamingResponse(body(), status)

        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.handler = handler
        answering = asyncio.create_task(call(service.app, sent))
        await sent.until(lambda: sent.text == "wrong")
        assert sent[0]["status"] == status
        assert not [name for name, _ in sent[0]["headers"] if name == b"retry-after"]
        go_on.set()
        await answering
        assert sent.text == "wrong!"
        running.close()
        service.check_nothing_is_left()

    with_service(work)


def test_an_answer_that_needs_no_engine_is_sent_in_the_end() -> None:
    async def work(service: Service) -> None:
        async def handler() -> dict[str, str]:
            return {"status": "queued"}

        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.handler = handler
        answer = await service.post()
        assert (answer.status_code, answer.json()) == (200, {"status": "queued"})
        running.close()
        service.check_nothing_is_left()

    with_service(work)


def test_a_client_that_goes_while_its_response_is_held_is_sent_nothing() -> None:
    async def work(service: Service) -> None:
        early, sent = Early(service), Sent()
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answering = asyncio.create_task(call(service.app, sent))
        await early.has_opened.wait()
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering
        assert sent == []
        running.close()
        service.check_nothing_is_left()

    with_service(work)


def test_a_stream_that_fails_after_its_turn_has_come_is_no_refusal() -> None:
    """What has been sent is not taken back: an event says what went wrong."""

    async def work(service: Service) -> None:
        async def events(visit: Visit) -> AsyncIterator[str]:
            yield OPENING[0]
            place = visit.take_place()
            running.close()
            await place.granted()
            place.release(30)
            raise EngineLostError("the replica has died")

        async def handler() -> StreamingResponse:
            return StreamingResponse(events(current_visit()), media_type="text/event-stream")

        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.handler = handler
        answer = await service.post("/v1/responses")
        assert answer.status_code == 200
        assert answer.text.startswith(OPENING[0])
        assert "the replica has died" in answer.text
        service.check_nothing_is_left()

    with_service(work)


async def nobody_reads(_: Message) -> None:
    pass


async def call(app: FastAPI, send: Send = nobody_reads, body: Any = BODY) -> None:
    """One request as a server passes it to the application."""
    arrived: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive() -> Message:
        if arrived:
            return arrived.pop()
        await asyncio.Event().wait()
        raise AssertionError

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": CHAT,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
