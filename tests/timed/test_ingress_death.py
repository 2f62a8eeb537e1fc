"""An ingress that is killed: its streams end with its connections, and nothing else of it stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import httpx
import pytest
from ray import serve

from tests.services import Service, wait_for_load
from tests.timed.clients import Answer, chat
from tests.timed.conftest import CAP, TOKENS_PER_S
from tests.timed.test_updates import replicas, wait_for
from tests.waiting import wait_until

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

# Half of the slots: those of the ingress that dies are not needed for a retry.
NUM_STREAMS = CAP
# Long enough that whatever is seen while they run has not come about by their end.
NUM_TOKENS = int(40 * TOKENS_PER_S)
SHORT = int(3 * TOKENS_PER_S)
TIMEOUT_S = 120


def num_in_engines() -> int:
    """Sequences that the engines have, running or in a queue."""
    [name] = [name for name in replicas("RUNNING") if name.endswith("Engine")]
    engines = serve.get_deployment_handle(name, "gpt-oss")
    return sum(engines.broadcast("num_unfinished_requests").results(timeout_s=TIMEOUT_S))


def stream(service: Service, ended: Semaphore) -> Answer | None:
    """None for one that was cut."""
    try:
        return chat(service, NUM_TOKENS)
    except httpx.TransportError:
        return None
    finally:
        ended.release()


def both_have_some() -> bool:
    """Whether each of the two ingresses has requests open."""
    ingresses = serve.get_deployment_handle("Ingress", "gpt-oss").broadcast("open_work")
    has_some = [one["requests"] > 0 for one in ingresses.results(timeout_s=TIMEOUT_S)]
    return len(has_some) == 2 and all(has_some)


def wait_until_both_are_asked(service: Service) -> None:
    """HAProxy asks an ingress when it has looked at its health, twice."""
    with ThreadPoolExecutor(CAP) as pool:
        while True:
            answers = [pool.submit(chat, service, SHORT) for _ in range(CAP)]
            wait_for_load(CAP, 0)
            both = both_have_some()
            assert all(answer.result().is_good for answer in answers)
            if both:
                return


def test_what_an_ingress_had_open_goes_with_it(service: Service) -> None:
    wait_until_both_are_asked(service)
    ended = Semaphore(0)
    with ThreadPoolExecutor(2 * NUM_STREAMS) as pool:
        streams = [pool.submit(stream, service, ended) for _ in range(NUM_STREAMS)]
        wait_for_load(NUM_STREAMS, 0)
        wait_until(lambda: num_in_engines() == NUM_STREAMS, TIMEOUT_S, num_in_engines)
        killed, survivor = service.replicas("Ingress")
        killed.kill()
        assert ended.acquire(timeout=TIMEOUT_S)
        # Whoever was cut asks again, and is served.
        retries = [pool.submit(chat, service, 10) for _ in range(NUM_STREAMS)]
        assert all(retry.result().is_good for retry in retries)
        num_left = sum(not one.done() for one in streams)
        assert 0 < num_left < NUM_STREAMS, "each ingress had some"
        wait_for_load(num_left, 0)
        wait_until(lambda: num_in_engines() == num_left, TIMEOUT_S, num_in_engines)
        assert sum(not one.done() for one in streams) == num_left, "seen while the others run"
        whole = [answer for one in streams if (answer := one.result())]
    assert [(answer.is_good, answer.num_tokens) for answer in whole] == [(True, NUM_TOKENS)] * num_left
    assert survivor.is_running()
    wait_for(lambda: len(replicas("RUNNING")["Ingress"]) == 2)
    assert chat(service, 10).is_good
