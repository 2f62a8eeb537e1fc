"""The cap, the queue and the refusals, with vLLM's own engines."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx
import httpx2
import openai
import pytest

from serve_app.config import read_config
from tests.services import LOAD_TIMEOUT_S, MODEL, ROOT, Service, connected, wait_for_load

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

CONFIG = read_config(ROOT / "configs" / "local.yaml")
CAP = CONFIG.engine.max_concurrent_requests
SLOTS = CONFIG.engine.max_replicas * CAP
# By default as many may wait as run.
QUEUE = SLOTS
SURPLUS = 8
NUM_TOKENS = 30
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count from 1 to 200."}],
    "temperature": 0,
    "max_tokens": NUM_TOKENS,
    "min_tokens": NUM_TOKENS,
}


@pytest.fixture(autouse=True, scope="module")
def _connected(service: Service) -> Iterator[None]:
    with connected(service):
        yield


def ask(service: Service, **body: object) -> httpx.Response:
    return httpx.post(f"{service.v1}/chat/completions", json=BODY | body, timeout=900)


@contextlib.contextmanager
def full_engines(service: Service) -> Iterator[None]:
    """A long stream in each slot, until the end of the block: then their clients leave."""
    body = json.dumps(BODY | {"stream": True, "max_tokens": 3500, "min_tokens": 3500})
    with contextlib.ExitStack() as connections:
        for _ in range(SLOTS):
            connection = HTTPConnection(service.url.removeprefix("http://"))
            connections.callback(connection.close)
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        wait_for_load(SLOTS, 0)
        yield


def test_the_cap_the_queue_and_the_refusals(service: Service) -> None:
    """The engines run what they may, as many wait, and the others hear at once when to come back.

    OpenAI's client does come back by itself, and is served without its user noticing.
    """
    was_refused = threading.Event()

    def look(response: httpx2.Response) -> None:
        if response.status_code == 429:
            was_refused.set()

    def chat_as_users_do() -> int:
        with httpx2.Client(event_hooks={"response": [look]}, timeout=900) as http:
            client = openai.OpenAI(base_url=service.v1, api_key="none", http_client=http, max_retries=9)
            messages: Any = [{"role": "user", "content": "Hi"}]
            answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
            assert answer.usage
            return answer.usage.completion_tokens

    with ThreadPoolExecutor(QUEUE + 1) as pool:
        with full_engines(service):
            waiting = [pool.submit(ask, service) for _ in range(QUEUE)]
            wait_for_load(SLOTS, QUEUE)
            refused = [ask(service, stream=index % 2 == 1) for index in range(SURPLUS)]
            body = {"model": MODEL, "input": "Hi", "stream": True}
            refused.append(httpx.post(f"{service.v1}/responses", json=body, timeout=900))
            user = pool.submit(chat_as_users_do)
            assert was_refused.wait(LOAD_TIMEOUT_S)
        served = [future.result() for future in waiting]
        assert user.result() == 5
    for answer in refused:
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert {answer.status_code for answer in served} == {200}
    assert {answer.json()["usage"]["completion_tokens"] for answer in served} == {NUM_TOKENS}
    wait_for_load(0, 0)
