"""An engine that dies under open answers of all kinds. Each is whole, and as without the death.

It leaves the service with a new replica, warm again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import httpx
import psutil
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

TIMEOUT_S = 300
# Tokens of each answer that are here before an engine is killed, far from its end.
NUM_BEFORE = 20
COUNT = [{"role": "user", "content": "Count from 1 to 60"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 40, "maxItems": 40},
    },
    "required": ["name", "numbers"],
    "additionalProperties": False,
}
# A function whose argument takes as many tokens as the others' texts.
ADD = {"name": "add", "description": "Adds the numbers of a list.", "parameters": PERSON}
# Greedy, so that each says the same twice. Eight, so that each of the two engines has some.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("chat/completions", {"messages": COUNT}),
    "two choices": ("chat/completions", {"messages": COUNT, "n": 2}),
    "log probabilities": ("chat/completions", {"messages": COUNT, "logprobs": True, "top_logprobs": 2}),
    "penalties": (
        "chat/completions",
        {"messages": COUNT, "frequency_penalty": 0.4, "presence_penalty": 0.2, "repetition_penalty": 1.02},
    ),
    "a schema": (
        "chat/completions",
        {
            "messages": COUNT,
            "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}},
        },
    ),
    "a function": (
        "chat/completions",
        {
            "messages": [{"role": "user", "content": "Add 1, 2 and 3"}],
            "tools": [{"type": "function", "function": ADD}],
            "tool_choice": {"type": "function", "function": {"name": "add"}},
        },
    ),
    "responses": ("responses", {"input": "Count from 1 to 60"}),
    "messages": ("messages", {"messages": COUNT}),
}
LIMITS = {"responses": "max_output_tokens"}


def engine_processes(service: Service) -> list[psutil.Process]:
    """The vLLM engine processes of the service."""
    children = [child for replica in service.replicas("Engine") for child in replica.children()]
    return [child for child in children if child.name().startswith("VLLM::EngineCor")]


def pieces(event: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an event of a stream says: where, and what."""
    for choice in event.get("choices", ()):
        index, delta = choice["index"], choice["delta"]
        yield f"{index} content", delta.get("content") or ""
        yield f"{index} reasoning", delta.get("reasoning_content") or delta.get("reasoning") or ""
        for call in delta.get("tool_calls") or ():
            yield f"{index} arguments", call["function"].get("arguments") or ""
        if choice.get("logprobs"):
            yield f"{index} tokens", "".join(entry["token"] for entry in choice["logprobs"]["content"])
        if choice["finish_reason"]:
            yield f"{index} finish", choice["finish_reason"]
    delta = event.get("delta")
    if isinstance(delta, str):
        yield event["type"], delta
    elif isinstance(delta, dict):
        yield delta.get("type", "end"), delta.get("text") or delta.get("thinking") or ""
    if usage := event.get("usage") or event.get("response", {}).get("usage"):
        # Not what was in a cache, which is the engine's own matter.
        names = ("completion_tokens", "output_tokens", "prompt_tokens")
        yield "usage", " ".join(f"{name} {usage[name]}," for name in names if usage.get(name))


def ask(service: Service, name: str, begun: Semaphore) -> dict[str, str]:
    """All that one streamed answer says. Releases `begun` when tokens have come."""
    path, body = REQUESTS[name]
    body = {"model": MODEL, "temperature": 0, "stream": True, LIMITS.get(path, "max_tokens"): 400} | body
    if path == "chat/completions":
        body["stream_options"] = {"include_usage": True}
    said: dict[str, str] = {}
    num_events = 0
    with httpx.stream("POST", f"{service.v1}/{path}", json=body, timeout=TIMEOUT_S) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event or event["error"] is None, event
                for where, what in pieces(event):
                    said[where] = said.get(where, "") + what
                num_events += 1
                if num_events == NUM_BEFORE:
                    begun.release()
        assert response.status_code == 200
    assert num_events > NUM_BEFORE, said
    return said


def ask_all(service: Service, pool: ThreadPoolExecutor, begun: Semaphore) -> dict[str, Any]:
    return {name: pool.submit(ask, service, name, begun) for name in REQUESTS}


def test_every_answer_is_whole_and_as_without_the_death(service: Service) -> None:
    begun = Semaphore(0)
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        unbroken = {name: answer.result() for name, answer in ask_all(service, pool, Semaphore()).items()}
        answers = ask_all(service, pool, begun)
        for _ in REQUESTS:
            assert begun.acquire(timeout=TIMEOUT_S)
        engine_processes(service)[0].kill()
        assert {name: answer.result() for name, answer in answers.items()} == unbroken

    # Nothing is lost for those who come now: the dead replica is out of the choice at once.
    for _ in range(10):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        assert httpx.post(f"{service.v1}/chat/completions", json=body, timeout=60).status_code == 200

    service.wait_for_engines(2)
