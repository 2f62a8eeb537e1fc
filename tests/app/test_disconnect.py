"""A client that leaves frees the engine, long before its answer would have ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
import ray
from ray import serve

from tests.services import LOAD_TIMEOUT_S, MODEL, Service
from tests.waiting import wait_until

pytestmark = pytest.mark.app

PROMPT = "Count from 1 to 200."
# These take ten minutes and more, on any machine, and longer than is waited for here.
NUM_TOKENS = 32_000
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": PROMPT}],
    "min_tokens": NUM_TOKENS,
    "max_tokens": NUM_TOKENS,
}
# Its answers end with the context at the latest.
RESPONSE = {"model": MODEL, "input": PROMPT, "ignore_eos": True}


@pytest.fixture(scope="module")
def num_running(service: Service) -> Iterator[Callable[[], int]]:
    """Requests in all engines."""
    ray.init(address=service.ray_address, log_to_driver=False)
    engines = serve.get_deployment_handle("Engine", "gpt-oss")
    yield lambda: sum(engines.broadcast("num_unfinished_requests").results(timeout_s=LOAD_TIMEOUT_S))
    ray.shutdown()


@pytest.mark.parametrize(
    ("path", "body", "num_sequences"),
    [
        pytest.param("chat/completions", CHAT | {"stream": True}, 1, id="a stream"),
        pytest.param("chat/completions", CHAT | {"n": 3, "temperature": 1}, 3, id="choices"),
        pytest.param("responses", RESPONSE, 1, id="a response"),
    ],
)
def test_leaving(
    service: Service, num_running: Callable[[], int], path: str, body: dict[str, Any], num_sequences: int
) -> None:
    connection = HTTPConnection(service.url.removeprefix("http://"))
    try:
        connection.request("POST", f"/v1/{path}", json.dumps(body), {"Content-Type": "application/json"})
        wait_until(lambda: num_running() == num_sequences, LOAD_TIMEOUT_S, num_running)
        if body.get("stream"):
            answer = connection.getresponse()
            assert answer.readline().startswith(b"data: ")
    finally:
        connection.close()
    wait_until(lambda: num_running() == 0, LOAD_TIMEOUT_S, num_running)
