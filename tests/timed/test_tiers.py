"""Who comes first when all engines are full."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

from benchmarks.admission.loads import beside, load
from tests.services import MODEL, Service, wait_for_load
from tests.timed.clients import chat
from tests.timed.conftest import CAP, MAX_QUEUED, NUM_ENGINES, TOKENS_PER_S

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

PLACES = NUM_ENGINES * CAP
# A place is kept for a second.
NUM_TOKENS = 50
SERVICE_S = NUM_TOKENS / TOKENS_PER_S


def test_a_flood_of_flex_work_does_not_delay_the_priority_tier(service: Service) -> None:
    alone = load(service.url, 10, NUM_TOKENS, tier="priority", rate=1)
    flood, urgent = beside(service.url, 20, NUM_TOKENS, flood_rate=5 * PLACES / SERVICE_S, rate=1)
    assert urgent.statuses == {"200": urgent.num_requests}
    assert alone.ttft_s
    assert urgent.ttft_s
    assert flood.ttft_s
    # In a line with the others it would wait as they do, for about a place's time.
    assert urgent.ttft_s.p50 < flood.ttft_s.p50 / 3
    assert urgent.ttft_s.p50 - alone.ttft_s.p50 < SERVICE_S / 4
    # What is kept free for them costs the flood no more than that: one place of eight.
    assert flood.served_per_s >= 0.9 * (PLACES - 1) / SERVICE_S - 1


def test_keys_take_turns(service: Service) -> None:
    """One key fills engines and queue; the only request of another is served before the rest of its queue."""
    num_waiting = MAX_QUEUED - 1
    # They end one after another, half a second apart.
    lengths = [(4 + index) * NUM_TOKENS // 2 for index in range(PLACES)]
    with ThreadPoolExecutor(PLACES + MAX_QUEUED) as pool:
        running = [pool.submit(chat, service, length, key="crowd") for length in lengths]
        wait_for_load(PLACES, 0)
        waiting = [pool.submit(chat, service, NUM_TOKENS, key="crowd") for _ in range(num_waiting)]
        wait_for_load(PLACES, num_waiting)
        alone = pool.submit(chat, service, NUM_TOKENS, key="alone")
        wait_for_load(PLACES, num_waiting + 1)
        answers = [client.result() for client in (alone, *running, *waiting)]
        first_at = [client.result().first_at or 0 for client in waiting]
    assert all(answer.is_good for answer in answers)
    num_later = sum(at > (alone.result().first_at or 0) for at in first_at)
    assert num_later >= num_waiting - 2, "the crowd has one turn before, and one may end at the same time"


def test_who_leaves_the_queue_reaches_no_engine(
    service: Service, requests_of_engines: Callable[[], str]
) -> None:
    """Their clients have gone: the queue has room again, and the engines have not heard of them."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]})
    with ThreadPoolExecutor(PLACES + MAX_QUEUED) as pool:
        running = [pool.submit(chat, service, 6 * NUM_TOKENS) for _ in range(PLACES)]
        wait_for_load(PLACES, 0)
        with contextlib.ExitStack() as connections:
            for index in range(MAX_QUEUED):
                connection = HTTPConnection(service.url.removeprefix("http://"))
                connections.callback(connection.close)
                headers = {"Content-Type": "application/json", "X-Request-Id": f"gone-{index}"}
                connection.request("POST", "/v1/chat/completions", body, headers)
            wait_for_load(PLACES, MAX_QUEUED)
        wait_for_load(PLACES, 0)
        after = [pool.submit(chat, service, NUM_TOKENS, name=f"after-{i}") for i in range(MAX_QUEUED)]
        assert all(client.result().is_good for client in (*running, *after))
    requests = requests_of_engines()
    assert "after-0" in requests
    assert "gone-" not in requests
