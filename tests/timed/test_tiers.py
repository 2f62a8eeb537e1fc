"""Who comes first when all engines are full. Nothing here depends on how fast the machine is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.services import LOAD_TIMEOUT_S, Service, wait_for_load
from tests.timed.clients import chat, held
from tests.timed.conftest import CAP, MAX_QUEUED, NUM_ENGINES
from tests.waiting import wait_until

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

PLACES = NUM_ENGINES * CAP
NUM_TOKENS = 50


def test_a_flood_of_flex_work_does_not_delay_the_priority_tier(service: Service) -> None:
    """In a line with the others it would wait until one of them leaves, and none does here."""
    with (
        ThreadPoolExecutor(1) as pool,
        held(service, PLACES - 1 + MAX_QUEUED, service_tier="flex") as flood,
    ):
        # What is kept free for others costs the flood one place of eight, and no more.
        wait_for_load(PLACES - 1, MAX_QUEUED)
        for _ in range(3):
            assert chat(service, NUM_TOKENS, service_tier="priority").is_good
        wait_for_load(PLACES - 1, MAX_QUEUED)

        # Where no place is free, one of the flood gives way in the queue, and has no turn before.
        with held(service, 1, service_tier="priority"):
            wait_for_load(PLACES, MAX_QUEUED)
            urgent = pool.submit(chat, service, NUM_TOKENS, service_tier="priority")
            wait_until(
                lambda: sum(one.status == 429 for one in flood) == 1,
                LOAD_TIMEOUT_S,
                lambda: [one.status for one in flood],
            )
        assert urgent.result().is_good
        wait_for_load(PLACES - 1, MAX_QUEUED - 1)
    wait_for_load(0, 0)


def test_keys_take_turns(service: Service) -> None:
    """One key fills engines and queue; the only request of another is served before the rest of its queue."""
    num_waiting = MAX_QUEUED - 1
    with ThreadPoolExecutor(1) as pool, held(service, PLACES, key="crowd") as running:
        wait_for_load(PLACES, 0)
        with held(service, num_waiting, key="crowd"):
            wait_for_load(PLACES, num_waiting)
            alone = pool.submit(chat, service, NUM_TOKENS, key="alone")
            wait_for_load(PLACES, num_waiting + 1)
            # The crowd has the first turn.
            running[0].leave()
            wait_for_load(PLACES, num_waiting)
            running[1].leave()
            # It gets an answer though nobody else leaves, and then its place goes to the crowd.
            assert alone.result().is_good
            wait_for_load(PLACES, num_waiting - 2)
    wait_for_load(0, 0)


def test_who_leaves_the_queue_reaches_no_engine(
    service: Service, requests_of_engines: Callable[[], str]
) -> None:
    """Their clients have gone: the queue has room again, and the engines have not heard of them."""
    with ThreadPoolExecutor(MAX_QUEUED) as pool:
        with held(service, PLACES):
            wait_for_load(PLACES, 0)
            with held(service, MAX_QUEUED, name="gone"):
                wait_for_load(PLACES, MAX_QUEUED)
            wait_for_load(PLACES, 0)
            after = [pool.submit(chat, service, NUM_TOKENS, name=f"after-{i}") for i in range(MAX_QUEUED)]
            wait_for_load(PLACES, MAX_QUEUED)
        assert all(client.result().is_good for client in after)
    wait_for_load(0, 0)
    requests = requests_of_engines()
    assert "after-0" in requests
    assert "gone" not in requests
