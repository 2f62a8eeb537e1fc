"""Admission as a client sees it: a full queue, who has waited, limits of a key."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.admission.client import MESSAGES as REFUSALS
from serve_app.admission.protocol import Reason, Tier
from tests.unit.api.scripted import PATHS, message_of, scripted_service

SECRET = "sk-a-secret-key-0123456789"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue(path: str, stream: bool) -> None:
    async with scripted_service(max_concurrent_requests=1, max_queued=0) as service:
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answer = await service.post(path, stream=stream)
        assert (answer.status_code, message_of(answer)) == (429, REFUSALS[Reason.QUEUE_FULL])
        assert int(answer.headers["retry-after"]) >= 1
        assert service.engines.started == []
        running.close()


@pytest.mark.parametrize("path", PATHS)
async def test_who_waits_in_vain_has_a_status(path: str) -> None:
    """And a time to come back, streamed or not."""
    async with scripted_service(max_concurrent_requests=1, max_queued=1) as service:
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


@pytest.mark.parametrize("stream", [False, True])
async def test_who_has_waited_is_answered_in_full(stream: bool) -> None:
    async with scripted_service(max_concurrent_requests=1, max_queued=1) as service:
        at_once = await service.post(stream=stream)
        running = service.gate.ask("", Tier.DEFAULT, 1)
        answering = asyncio.create_task(service.post(stream=stream))
        await service.engines.until_started(2)
        running.close()
        later = await answering
        assert (later.status_code, later.text.count("Hello")) == (200, at_once.text.count("Hello"))


async def test_limits_of_a_key_are_said_and_the_key_never_kept() -> None:
    async with scripted_service(max_requests_per_key=1) as service:
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
