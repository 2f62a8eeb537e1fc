"""How many sequences a request has: the gate is asked for all that are started, and there are 128 at most."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

import pytest

from serve_app.api.generation import STARTED_AT_ONCE
from tests.examples import num_examples
from tests.unit.api.scripted import BODIES, CHAT, COMPLETIONS, PATHS, message_of, scripted_service

MOST = 128
NUM_TRIES = num_examples(150)
# As clients spell a number, and what is none.
NUMBERS: list[Any] = [1, 2, 3, 127, 128, 129, 200, 2000, 10**6, 2**31, 2**63, 0, -1]
SPELT: list[Any] = ["1", "2", "200", "2000", 2.0, 200.0, 1.5, True, False, None, [], [2], {}, "", "many"]
PROMPTS: list[Any] = [
    *("a", ["a"], ["a"] * 2, ["a"] * 64, ["a"] * 65, ["a"] * 128, ["a"] * 129, ["a"] * 5000),
    *([1, 2, 3], [[1]], [[1]] * 64, [[1]] * 129, [1] * 1000),
]


def requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each number of choices with each batch of prompts, and some of all fields in all APIs."""
    for prompt, n in product(PROMPTS, NUMBERS + SPELT):
        yield COMPLETIONS, BODIES[COMPLETIONS] | {"prompt": prompt, "n": n}
    choices = random.Random(0)
    for _ in range(NUM_TRIES):
        path = choices.choice(PATHS)
        names = choices.sample(["n", "best_of", "num_choices"], 2)
        yield path, BODIES[path] | {name: choices.choice(NUMBERS + SPELT) for name in names}


async def test_what_is_started_was_asked_for() -> None:
    numbers = set()
    async with scripted_service(max_concurrent_requests=1000, max_queued=1000) as service:
        for path, body in requests():
            service.asked.clear()
            service.engines.started.clear()
            answer = await service.request("POST", path, json=body)
            num_asked = sum(ask.num_sequences for ask in service.asked)
            assert num_asked == len(service.engines.started) <= MOST, body
            assert (answer.status_code, bool(num_asked)) in ((200, True), (400, False)), body
            numbers.add(num_asked)
    assert {0, 1, 2, MOST} <= numbers


@pytest.mark.parametrize("n", [129, 2000, "200", 200.0, True, 2.0])
@pytest.mark.parametrize("stream", [False, True])
async def test_more_choices_than_there_may_be(n: Any, stream: bool) -> None:
    """And what has to be guessed to be a number is not: the field is named."""
    async with scripted_service() as service:
        for path in (CHAT, COMPLETIONS):
            answer = await service.post(path, n=n, stream=stream)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
            message_of(answer)
        assert service.asked == []


async def test_the_largest_request_leaves_room_for_others() -> None:
    """Its sequences that wait for a slot are not those of a queue that is full."""
    async with scripted_service(max_concurrent_requests=1, max_queued=1) as service:
        service.engines.script = lambda one: [None] if one.sampling.seed else ["Hi<|return|>"]
        large = service.exchange(COMPLETIONS, prompt=["a"] * 64, n=2, seed=1)
        await service.engines.until_started(MOST)
        assert service.gate._own.num_running == 1
        small = service.exchange(COMPLETIONS)
        await service.engines.until_started(MOST + 1)
        assert service.gate._own.num_waiting == MOST
        large.leave()
        await large.end()
        await small.end()
        assert small.status == 200


async def test_many_sequences_are_started_a_few_at_a_time() -> None:
    """Whatever an event loop has to do for others comes between."""
    async with scripted_service(max_concurrent_requests=256) as service:
        started: list[int] = []

        async def watch() -> None:
            while True:
                started.append(len(service.engines.started))
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        answer = await service.post(CHAT, n=MOST)
        watching.cancel()
        assert answer.status_code == 200
        assert len(answer.json()["choices"]) == MOST
    assert max(after - before for before, after in pairwise(started)) <= STARTED_AT_ONCE
