"""What operators are told to look for is in the logs when it happens, with Serve's throughput settings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.services import MODEL, Service, wait_for_load
from tests.timed.clients import chat
from tests.timed.conftest import CAP, MAX_QUEUED, NUM_ENGINES
from tests.waiting import wait_until

pytestmark = pytest.mark.app

# Each line comes once a minute at most.
TIMEOUT_S = 90


def wait_for_line(service: Service, deployment: str, line: str) -> None:
    """Until it is in the log of a replica, and in what `serve run` shows of the replicas' standard error."""

    def logs() -> list[str]:
        files = service.serve_logs.glob(f"replica_gpt-oss_{deployment}_*.log")
        return [file.read_text(errors="replace") for file in files]

    wait_until(lambda: any(line in log for log in logs()), TIMEOUT_S, logs)
    wait_until(
        lambda: any(line in shown and deployment in shown for shown in service.log.read_text().splitlines()),
        TIMEOUT_S,
        lambda: service.log.read_text()[-3000:],
    )


def test_repairs(service: Service) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "So"}]
    # The timed engine begins with a header, where only text may follow.
    body = {"model": MODEL, "messages": turns, "max_tokens": 5, "continue_final_message": True}
    answer = httpx.post(f"{service.v1}/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    wait_for_line(service, "Ingress", "the model's answers needed repairs")


def test_refusals(service: Service) -> None:
    number = NUM_ENGINES * CAP + MAX_QUEUED + 4
    with ThreadPoolExecutor(number) as pool:
        statuses = [answer.status for answer in pool.map(lambda _: chat(service, 100), range(number))]
    assert 429 in statuses
    wait_for_line(service, "Gate", "requests were refused since the last such line: QUEUE_FULL")
    wait_for_load(0, 0)


def test_requests_are_not_logged_one_by_one(service: Service) -> None:
    """It would cost more than all that is logged."""
    assert chat(service, 3).is_good
    for file in service.serve_logs.glob("replica_*.log"):
        assert "chat/completions" not in file.read_text()
