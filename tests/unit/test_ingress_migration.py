"""Engines that die under the answers of all APIs: the ingress over timed engines, which say the same."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from serve_app.admission import admission_request
from serve_app.transport.requests import GenerateRequest
from tests import asgi
from tests.unit import test_ingress
from tests.unit.test_ingress import Bench
from tests.waiting import pass_until

start = test_ingress.start

# vLLM and what it imports use what is deprecated. The first test imports it.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

NUM_TOKENS = 60
QUESTION = [{"role": "user", "content": "Say hello."}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": QUESTION, "max_tokens": NUM_TOKENS, "n": 2},
    "completions": {"prompt": ["Say hello.", "Say goodbye."], "max_tokens": NUM_TOKENS, "n": 2},
    "responses": {"input": "Say hello.", "max_output_tokens": NUM_TOKENS},
    "messages": {"messages": QUESTION, "max_tokens": NUM_TOKENS},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "streamed": {"stream": True},
    "with a stop string": {"stream": True, "stop": "life", "stop_sequences": ["life"]},
}
# What differs from one run to the next.
CHANGING = re.compile(r'"(id|created|created_at|completed_at|item_id|response_id)": ?("[^"]*"|[\d.]+)')


class DyingEngines:
    """Each call's engine dies after some tokens of it, as long as there are deaths left."""

    def __init__(self, bench: Bench, seed: int, num_deaths: int) -> None:
        self._bench, self._random = bench, random.Random(seed)
        self.num_deaths = self.num_left = num_deaths
        self._names = itertools.count()

    async def __call__(self, request: GenerateRequest) -> int:
        if not self.num_left:
            return await self._bench._generate(request)
        self.num_left -= 1
        num_tokens = self._random.randrange(NUM_TOKENS)
        generating = asyncio.create_task(self._bench._generate(request))
        sequence = self._bench.ingress._engines._open[request.sequence]
        await pass_until(lambda: generating.done() or len(sequence.token_ids) >= num_tokens)
        generating.cancel()
        # A replacement for it: there is always another one to go to.
        replicas = [replica.unique_id for replica in self._bench.router.curr_replicas]
        self._bench.router.set_replicas(*replicas, f"new-{next(self._names)}")
        raise ActorDiedError()


def comparable(text: str) -> str:
    """Without ids and times."""
    return CHANGING.sub(r'"\1": 0', text)


def reported(answer: Any) -> int:
    """What the client is told of migrations, for it asks."""
    if "x-migrations" in answer.headers:
        return int(answer.headers["x-migrations"])
    [comment] = re.findall(r"(?m)^: x-migrations (\d+)$", answer.text)
    return int(comment)


def data_of(answer: Any) -> list[str]:
    """A stream's events, without ids and times."""
    return [line for line in comparable(answer.text).splitlines() if line.startswith("data: ")]


def text_of(answer: Any) -> dict[int, str]:
    """What a stream's events say, by choice."""
    said: dict[int, str] = {}
    for line in answer.text.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            more = choice.get("text") or delta.get("content") or delta.get("reasoning_content") or ""
            said[choice["index"]] = said.get(choice["index"], "") + more
        delta = event.get("delta")
        if isinstance(delta, str):
            said[0] = said.get(0, "") + delta
        elif isinstance(delta, dict):
            said[0] = said.get(0, "") + (delta.get("text") or delta.get("thinking") or "")
    return said


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("path", BODIES)
async def test_the_answer_is_that_of_the_unbroken_run(
    start: Any, path: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is alone, and not to blame.
    monkeypatch.setattr(admission_request, "MAX_DEATHS_ALONE", 3)
    body = {"model": "gpt-oss", "temperature": 0} | BODIES[path] | OPTIONS[options]
    async with start(max_concurrent_requests=4) as bench:
        bench.router.set_replicas("a", "b", "c")
        unbroken = await asgi.request(bench.app, "POST", f"/v1/{path}", json=body)
        assert unbroken.status_code == 200, unbroken.text
        num_sequences = len(bench.handle.calls)
        for seed in range(3):
            engines = DyingEngines(bench, seed, num_deaths=1 + seed % 2)
            num_calls = len(bench.handle.calls)
            bench.handle.engine_generate = engines
            answer = await asgi.request(
                bench.app, "POST", f"/v1/{path}", json=body, headers={"X-Report-Migrations": "1"}
            )
            # One for each sequence, and one for each loss: of what had ended nothing is lost.
            assert reported(answer) == len(bench.handle.calls) - num_calls - num_sequences
            assert "x-migrations" not in unbroken.headers | {"body": unbroken.text}
            assert engines.num_left < engines.num_deaths, "the answer may have met its stop string by then"
            assert engines.num_left == 0 or "stop" in body
            assert answer.status_code == 200, answer.text
            if "stream" in body:
                assert text_of(answer) == text_of(unbroken)
                assert data_of(answer)[-1] == data_of(unbroken)[-1]
            else:
                assert comparable(answer.text) == comparable(unbroken.text)
            await bench.until_idle()
