"""Stopping: the last thing that is done to the service that these tests share."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.services import MODEL, STOP_TIMEOUT_S, Service, connected, wait_for_load

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

NUM_STREAMS, NUM_TOKENS = 4, 1500


def stream(service: Service) -> list[str]:
    """The events of a long answer, to its end."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Count from 1 to 200."}],
        "max_tokens": NUM_TOKENS,
        "min_tokens": NUM_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{service.v1}/chat/completions", json=body, timeout=900) as response:
        return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def test_open_streams_are_finished_before_it_ends(service: Service) -> None:
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        # Connected no longer than that: Ray ends a process that is when it goes.
        with connected(service):
            streams = [pool.submit(stream, service) for _ in range(NUM_STREAMS)]
            wait_for_load(NUM_STREAMS, 0)
        service.process.terminate()
        ends = [future.result()[-2:] for future in streams]
    for usage, done in ends:
        assert json.loads(usage)["usage"]["completion_tokens"] == NUM_TOKENS
        assert done == "[DONE]"
    assert service.process.wait(STOP_TIMEOUT_S) == 0
