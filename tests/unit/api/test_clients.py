"""Clients that do not read, leave, or wait for long, message by message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.admission.protocol import Tier
from serve_app.errors import EngineLostError
from tests.asgi import Exchange, body_of, scope_of
from tests.unit.api.scripted import CHAT, MESSAGES, PATHS, scripted_service


async def test_a_client_that_does_not_read_gets_an_error_and_its_sequence_ends() -> None:
    async with scripted_service() as service:
        service.engines.script = lambda _: ["<|channel|>final<|message|>" + "word " * 2000, None]
        exchange = service.exchange(CHAT, stream=True)
        exchange.reads.clear()
        await service.engines.is_left.wait()
        exchange.reads.set()
        await exchange.end()
        assert "unread" in exchange.text
        assert exchange.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_client_that_goes_ends_its_request(path: str, stream: bool, is_cancelled: bool) -> None:
    """Said by a message, or by cancelling the task, as Serve does."""
    async with scripted_service() as service:
        service.engines.script = lambda _: ["<|channel|>final<|message|>Hello", None]
        exchange = service.exchange(path, stream=stream)
        await service.engines.waits.wait()
        if is_cancelled:
            exchange.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange.end()
        else:
            exchange.leave()
            await exchange.end()
        await service.engines.is_left.wait()


async def test_a_client_that_goes_while_it_waits_for_the_gate() -> None:
    async with scripted_service() as service:
        asked = asyncio.Event()
        held: list[Any] = []
        send = service.gate.send

        def noted(message: Any) -> None:
            held.append(message)
            asked.set()

        service.gate.send = noted  # type: ignore[method-assign]
        exchange = service.exchange(CHAT)
        await asked.wait()
        exchange.leave()
        await exchange.end()
        assert exchange.sent == []
        for message in held:
            send(message)  # they arrive now


async def test_a_client_that_goes_before_its_body_is_complete() -> None:
    async with scripted_service() as service:
        exchange = Exchange(service.app, scope_of(CHAT), body_of(b"{", is_whole=False))
        exchange.leave()
        await exchange.end()
        assert exchange.sent == []
        assert service.asked == []


# --- keep-alive ----------------------------------------------------------------------------------------


async def test_a_stream_that_waits_is_kept_alive() -> None:
    async with scripted_service(max_concurrent_requests=1, app={"keep_alive_s": 0.01}) as service:
        running = service.gate.ask("", Tier.DEFAULT, 1)
        exchange = service.exchange(CHAT, stream=True)
        await exchange.until(lambda: exchange.text.count(": keep-alive\n\n") == 2)
        assert "data:" not in exchange.text
        running.close()
        await exchange.end()
        assert exchange.status == 200
        assert exchange.text.rstrip().endswith("data: [DONE]")


async def test_what_fails_after_a_comment_is_an_event() -> None:
    async with scripted_service(max_concurrent_requests=1, app={"keep_alive_s": 0.01}) as service:
        running = service.gate.ask("", Tier.DEFAULT, 1)
        service.engines.script = lambda _: [EngineLostError("the replica has died")]
        exchange = service.exchange(MESSAGES, stream=True)
        await exchange.until(lambda: "keep-alive" in exchange.text)
        running.close()
        await exchange.end()
        assert "event: error" in exchange.text
        assert "the replica has died" in exchange.text
