"""What an engine's error is over HTTP: a status before the first token, an event after it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serve_app.errors import (
    UNFORESEEN,
    BadRequestError,
    EngineLostError,
    EngineUnavailableError,
    KeyLimitError,
    OverloadedError,
    ServiceError,
)
from tests.unit.api.scripted import (
    CHAT,
    COMPLETIONS,
    PATHS,
    REPLY,
    events_of,
    message_of,
    scripted_service,
)
from tests.waiting import pass_until

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
async def test_an_error_before_the_first_token_is_a_status(path: str, stream: bool, error: Exception) -> None:
    async with scripted_service() as service:
        service.engines.script = lambda _: [error]
        answer = await service.post(path, stream=stream)
        assert answer.status_code == getattr(error, "status", 500)
        foreseen = isinstance(error, ServiceError)
        assert message_of(answer).endswith(str(error) if foreseen else UNFORESEEN)
        after = getattr(error, "retry_after_s", None)
        assert answer.headers.get("retry-after") == (None if after is None else str(int(after + 0.9)))


@pytest.mark.parametrize("path", PATHS)
async def test_an_error_after_the_first_tokens(path: str) -> None:
    async with scripted_service() as service:
        service.engines.script = lambda _: [
            "<|channel|>final<|message|>Hello there",
            EngineLostError("the replica has died"),
        ]
        whole = await service.post(path)
        assert (whole.status_code, message_of(whole)) == (503, "the replica has died")
        events = events_of(await service.post(path, stream=True))
        assert "Hello" in json.dumps(events)
        assert "the replica has died" in json.dumps(events[-1])


async def test_requests_side_by_side_fail_alone() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda one: [
            RuntimeError("a wire broke") if one.sampling.seed == 1 else REPLY
        ]
        answers = await asyncio.gather(*(service.post(seed=seed) for seed in range(3)))
        assert [answer.status_code for answer in answers] == [200, 500, 200]


async def test_one_choice_that_fails_ends_the_others() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda one: [EngineLostError("it has died")] if one.choice else [None]
        answer = await service.post(n=3)
        assert (answer.status_code, message_of(answer)) == (503, "it has died")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_an_encoder_is_one_requests_own(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_service() as service:
        from serve_app.api.generation import Run

        read = Run._read
        monkeypatch.setattr(Run, "_read", lambda *_: 1 / 0)
        answer = await service.post(stream=stream)
        assert answer.status_code == 500
        message_of(answer)
        monkeypatch.setattr(Run, "_read", read)
        assert (await service.post()).status_code == 200


async def test_a_choice_that_cannot_be_sent_takes_the_others_with_it() -> None:
    async with scripted_service() as service:
        start = service.engines.start

        def start_one(*arguments: Any) -> Any:
            if service.engines.started:
                raise OverflowError("too many bits")
            return start(*arguments)

        service.engines.start = start_one  # type: ignore[method-assign, assignment]
        service.engines.script = lambda _: [None]
        answer = await service.post(n=3)
        assert answer.status_code == 500


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reads", [True, False])
async def test_an_error_of_one_choice_ends_the_others_at_once(path: str, reads: bool) -> None:
    """Before its client has read what came before it: it may never do so."""
    async with scripted_service(max_concurrent_requests=1000) as service:
        begin = "<|channel|>final<|message|>Hello there, friend"
        service.engines.script = lambda _: [begin, None]
        choices: dict[str, Any] = {"n": 5} if path in (CHAT, COMPLETIONS) else {}
        if path == COMPLETIONS:
            choices["prompt"] = ["a", "b"]
        num_sequences = {CHAT: 5, COMPLETIONS: 10}.get(path, 1)
        exchange = service.exchange(path, stream=True, **choices)
        if not reads:
            exchange.reads.clear()
        await service.engines.until_started(num_sequences)
        await exchange.until(lambda: bool(exchange.text))
        assert service.engines.num_open == num_sequences
        service.engines.inboxes[num_sequences // 2].fail(EngineLostError("the replica has died"))
        await pass_until(lambda: service.engines.num_open == 0)
        assert (service.gate._own.num_running, service.gate._own.num_waiting) == (0, 0)
        exchange.reads.set()
        await exchange.end()
        assert "the replica has died" in exchange.text
