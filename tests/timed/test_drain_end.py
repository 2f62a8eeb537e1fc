"""Engine replicas that are replaced while their streams last longer than a drain may: all go on elsewhere."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import Any

import httpx
import pytest
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from tests.services import MODEL, Service, wait_for_load
from tests.timed.conftest import CAP, TOKENS_PER_S, timed_config
from tests.timed.test_updates import replicas, wait_for

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

DRAIN_S = 1
# As many as one engine has slots for: an engine goes when the other has taken its streams.
NUM_STREAMS = CAP
# Longer than it takes until an engine goes, on a busy machine too.
NUM_TOKENS = int(35 * TOKENS_PER_S)
TIMEOUT_S = 300


def deploy(service: Service, **options: Any) -> None:
    """Has Serve change options of the engine deployment: nothing else is replaced."""
    config = timed_config(str(service.log.parent / "record"))
    config["http_options"]["port"] = int(service.url.rpartition(":")[2])
    config["applications"][0]["deployments"] = [{"name": "TimedEngine", **options}]
    client = _get_global_client()
    assert client
    client.deploy_apps(ServeDeploySchema.parse_obj(config))


def ask(service: Service, num_tokens: int, begun: Semaphore) -> tuple[str, str, int, int]:
    """What a stream said, its finish reason and usage, and how many engines it has lost."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    said, reason, usage, num_lost, last = "", "", 0, -1, ""
    headers = {"x-report-migrations": "1"}
    url = f"{service.v1}/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=TIMEOUT_S) as response:
        for line in response.iter_lines():
            last = line or last
            if line.startswith(": x-migrations "):
                num_lost = int(line.rpartition(" ")[2])
            elif line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    said += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
                usage = (chunk.get("usage") or {}).get("completion_tokens", usage)
                begun.release()
    assert "data: [DONE]" in last or num_lost >= 0, last
    return said, reason, usage, num_lost


def test_streams_that_outlast_a_drain_go_on_elsewhere(service: Service) -> None:
    # The same question always gets the same words, in a circle of fewer than these.
    words = ask(service, 100, Semaphore())[0].split()
    period = next(n for n in range(1, len(words)) if words[n:] == words[:-n])
    deploy(service, graceful_shutdown_timeout_s=DRAIN_S)
    begun = Semaphore(0)
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        streams = [pool.submit(ask, service, NUM_TOKENS, begun) for _ in range(NUM_STREAMS)]
        wait_for_load(NUM_STREAMS, 0)
        before = replicas("RUNNING")["TimedEngine"]
        # An option that takes new replicas.
        deploy(service, ray_actor_options={"num_cpus": 0.11})
        answers = [stream.result() for stream in streams]
    num_words = NUM_TOKENS - 3  # the rest is what harmony begins with
    expected = [words[n % period] for n in range(num_words)]
    for said, reason, usage, _ in answers:
        assert said.split() == expected
        assert (reason, usage) == ("length", NUM_TOKENS)
    num_lost = [number for *_, number in answers]
    # Each engine had half of them.
    assert sum(num_lost) >= NUM_STREAMS // 2, num_lost
    wait_for(lambda: not before & set().union(*replicas("STARTING", "RUNNING", "STOPPING").values()))
    wait_for(lambda: len(replicas("RUNNING")["TimedEngine"]) == 2)
    wait_for_load(0, 0)
