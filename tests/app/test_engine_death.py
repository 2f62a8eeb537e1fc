"""An engine that dies while streams are open. It leaves the service with a new replica, warm again."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

NUM_STREAMS = 8
# The Responses API opens with this many events that need no token.
EVENTS_BEFORE_TEXT = 6
PROMPT = "Count from 1 to 300"


def engine_processes() -> list[psutil.Process]:
    """The vLLM engine processes whose parent is a replica of the service."""
    engines = (p for p in psutil.process_iter(["name"]) if p.info["name"].startswith("VLLM::EngineCor"))
    return [p for p in engines if (parent := p.parent()) and parent.name().startswith("ray::ServeRepli")]


def stream(service: Service, path: str, opened: threading.Semaphore) -> list[str]:
    """All events of one long answer, to its end. Releases `opened` when tokens have come."""
    body: dict[str, Any] = {"model": MODEL, "temperature": 0, "stream": True}
    if path == "responses":
        body |= {"input": PROMPT, "max_output_tokens": 1500}
    else:
        body |= {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1500}
    with httpx.stream("POST", f"{service.v1}/{path}", json=body, timeout=120) as response:
        assert response.status_code == 200
        events = []
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                if len(events) == EVENTS_BEFORE_TEXT:
                    opened.release()
        return events


def error_of(events: list[str]) -> Any:
    """OpenAI's error object among the last events of a stream, or None."""
    last = [json.loads(event) for event in events[-3:] if event != "[DONE]"]
    return next((event["error"] for event in last if event.get("error")), None)


def test_streams_end_with_an_error_event_and_serve_replaces_the_replica(service: Service) -> None:
    opened = threading.Semaphore(0)
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        paths = ["chat/completions", "responses"] * (NUM_STREAMS // 2)
        answers = [(path, pool.submit(stream, service, path, opened)) for path in paths]
        for _ in paths:
            assert opened.acquire(timeout=60)
        # Which engine has which stream is not known; with eight, each has some.
        os.kill(engine_processes()[0].pid, signal.SIGKILL)
        ends = [(path, answer.result()) for path, answer in answers]
    failed = [(path, end) for path, end in ends if error_of(end)]
    assert failed, "the streams of the engine that was killed"
    assert len(failed) < NUM_STREAMS, "the other engine goes on"
    for path, end in failed:
        assert end[-1] == "[DONE]"
        error = error_of(end)
        assert error["type"] == "server_error"
        assert "can be sent again" in error["message"]
        if path == "responses":
            kinds = [json.loads(event)["type"] for event in end[-3:-1]]
            assert kinds == ["error", "response.failed"]
            # What had come is in the last event.
            assert json.loads(end[-2])["response"]["output"]

    # Nothing is lost for those who come now: the dead replica is out of the choice at once.
    for _ in range(10):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        assert httpx.post(f"{service.v1}/chat/completions", json=body, timeout=60).status_code == 200

    service.wait_for_engines(2)
