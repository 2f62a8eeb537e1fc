"""Engine replicas that are killed under open answers: every answer is whole, and equal to an unbroken one."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import httpx
import pytest

from tests.services import MODEL, Service
from tests.timed.conftest import NUM_ENGINES
from tests.timed.test_updates import replicas, wait_for

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

# Four seconds of these engines.
NUM_TOKENS = 200
TIMEOUT_S = 300
QUESTION = [{"role": "user", "content": "Hi"}]
# One for each slot of an engine; the other has room for all.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat/completions", {"messages": QUESTION, "max_tokens": NUM_TOKENS, "stream": True}),
    "chat, not streamed": ("chat/completions", {"messages": QUESTION, "max_tokens": NUM_TOKENS}),
    "responses": ("responses", {"input": "Hi", "max_output_tokens": NUM_TOKENS, "stream": True}),
    "messages": ("messages", {"messages": QUESTION, "max_tokens": NUM_TOKENS, "stream": True}),
}
# What differs from one run to the next.
CHANGING = re.compile(
    r'"(id|created|created_at|completed_at|item_id|request_id|sequence_number)": ?("[^"]*"|[\d.]+)'
)


def ask(service: Service, name: str, begun: Semaphore) -> list[str]:
    """The text of an answer, and its end, without what differs each time. Releases `begun` early in it."""
    path, body = REQUESTS[name]
    body = {"model": MODEL, "temperature": 0, "ignore_eos": True} | body
    said, lines, num_events = "", [], 0
    with httpx.stream("POST", f"{service.v1}/{path}", json=body, timeout=TIMEOUT_S) as response:
        if not body.get("stream"):
            begun.release()
        for line in response.iter_lines():
            lines.append(CHANGING.sub(r'"\1": 0', line))
            num_events += 1
            if num_events == 20:
                begun.release()
            if body.get("stream") and line.startswith("data: {"):
                said += text_of(json.loads(line.removeprefix("data: ")))
        assert response.status_code == 200, lines
    return [said, *lines[-4:]]


def text_of(event: dict[str, Any]) -> str:
    """What a streamed event says."""
    delta = event.get("delta") or (event.get("choices") or [{}])[0].get("delta") or {}
    if isinstance(delta, str):
        return delta
    names = ("content", "reasoning_content", "text", "thinking")
    return "".join(delta.get(name) or "" for name in names)


@pytest.fixture(scope="module")
def unbroken(service: Service) -> dict[str, list[str]]:
    return {name: ask(service, name, Semaphore()) for name in REQUESTS}


@pytest.mark.parametrize("num_killed", range(1, NUM_ENGINES + 1))
def test_no_answer_is_lost(service: Service, unbroken: dict[str, list[str]], num_killed: int) -> None:
    """Where all are killed, the answers wait for those that take their place."""
    begun = Semaphore(0)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        answers = {name: pool.submit(ask, service, name, begun) for name in REQUESTS}
        for _ in REQUESTS:
            assert begun.acquire(timeout=TIMEOUT_S)
        # With four requests on two engines, each has some.
        before = replicas("RUNNING")["TimedEngine"]
        victims = service.replicas("TimedEngine")
        assert len(victims) == NUM_ENGINES
        for process in victims[:num_killed]:
            process.kill()
        assert {name: answer.result() for name, answer in answers.items()} == unbroken
    # Serve counts the dead as ready until it has looked.
    num_left = NUM_ENGINES - num_killed
    wait_for(lambda: len(replicas("RUNNING")["TimedEngine"] & before) == num_left)
    wait_for(lambda: len(replicas("RUNNING")["TimedEngine"]) == NUM_ENGINES)
    service.wait_for_engines(NUM_ENGINES)
