"""A client that leaves frees the engine within a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import ray
from ray import serve

from tests.services import MODEL, Service

pytestmark = pytest.mark.app

# Runs for minutes unless it is stopped.
LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count from 1 to 200."}],
    "temperature": 0,
    "min_tokens": 3000,
    "max_tokens": 3000,
}


@pytest.fixture(scope="module")
def num_running(service: Service) -> Iterator[Callable[[], int]]:
    """Requests in all engines."""
    ray.init(address=service.ray_address, log_to_driver=False)
    engines = serve.get_deployment_handle("Engine", "gpt-oss")
    yield lambda: sum(engines.broadcast("num_unfinished_requests").results(timeout_s=10))
    ray.shutdown()


def seconds_until(condition: Callable[[], bool], limit_s: float) -> float:
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit_s:
            return float("inf")
    return time.monotonic() - start


def test_leaving_a_stream(service: Service, num_running: Callable[[], int]) -> None:
    url = f"{service.v1}/chat/completions"
    with httpx.stream("POST", url, json=LONG | {"stream": True}, timeout=60) as response:
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        assert num_running() == 1
    assert seconds_until(lambda: num_running() == 0, 10) < 1


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_leaving_before_the_answer(service: Service, num_running: Callable[[], int], path: str) -> None:
    body = LONG | {"n": 3, "temperature": 1}
    if path == "responses":
        body = {"model": MODEL, "input": "Count from 1 to 200.", "ignore_eos": True}

    # The time-out closes the connection.
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.v1}/{path}", json=body, timeout=3)
    assert seconds_until(lambda: num_running() == 0, 10) < 1
