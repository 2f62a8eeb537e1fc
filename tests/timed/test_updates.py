"""Updates, scaling and the end, under load. No request is lost, and no stream is cut."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.serve.context import _get_global_client

from tests.services import ROOT, Service, wait_for_load
from tests.timed.clients import NUM_TOKENS_WITHOUT_END, Answer, chat, clients
from tests.timed.conftest import CAP, NUM_ENGINES, SHUTDOWN_S, TOKENS_PER_S, changed, timed_config, write
from tests.waiting import wait_until

pytestmark = [pytest.mark.app, pytest.mark.filterwarnings("ignore")]

# A start takes seconds, and many times that on a busy machine.
TIMEOUT_S = 600
HANG = """
import sys, ray
from ray import serve
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
serve.get_deployment_handle("TimedEngine", "gpt-oss").hang.remote().result(timeout_s=30)
"""


def replicas(*states: str) -> dict[str, set[str]]:
    """The ids of the replicas in these states, by deployment."""
    client = _get_global_client()
    assert client
    [application] = client.get_serve_details()["applications"].values()
    return {
        name: {one["replica_id"] for one in details["replicas"] if one["state"] in states}
        for name, details in application["deployments"].items()
    }


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the replicas are as `condition` says."""
    wait_until(condition, TIMEOUT_S, lambda: replicas("STARTING", "RUNNING", "STOPPING"), interval_s=0.2)


def deploy(service: Service, config: dict[str, Any], folder: Path) -> None:
    """Submits a config to the running service, as `serve deploy` does; waits until nothing old is left."""
    old = set().union(*replicas("RUNNING").values())
    config["http_options"]["port"] = int(service.url.rpartition(":")[2])
    program = str(Path(sys.executable).with_name("serve"))
    where = f"--address={service.ray_address}"
    command = [program, "run", "--non-blocking", where, str(write(config, folder))]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)

    def is_done() -> bool:
        running = replicas("RUNNING")
        is_new = running.get("Ingress") and not old & set().union(*running.values())
        return bool(is_new) and not any(replicas("STARTING", "STOPPING").values())

    wait_for(is_done)


def assert_all_whole(answers: list[Answer], num_tokens: int) -> None:
    assert len(answers) > CAP
    assert not [answer for answer in answers if not answer.is_good or answer.num_tokens != num_tokens]


def test_a_rolling_update(service: Service, tmp_path: Path) -> None:
    """Engines, gate and ingresses are all replaced while streams are open."""
    num_tokens = int(3 * TOKENS_PER_S)
    with clients(service, NUM_ENGINES * CAP, num_tokens) as stop:
        deploy(service, changed(timed_config(), ingress={"max_unread_tokens": 1000}), tmp_path)
        answers = stop()
    assert_all_whole(answers, num_tokens)


def test_a_hung_engine_is_replaced(service: Service) -> None:
    """Its streams go on in the other engine, with those that are there, and there are two again."""
    before = replicas("RUNNING")["TimedEngine"]
    enough = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(chat, service, NUM_TOKENS_WITHOUT_END, enough=enough) for _ in range(4)]
        wait_for_load(4, 0)
        # In a process of its own: Ray may take one down that holds results of a replica that has died.
        subprocess.run([sys.executable, "-c", HANG, service.ray_address], capture_output=True, check=True)
        try:
            wait_for(lambda: len(replicas("RUNNING")["TimedEngine"] - before) == 1)
        finally:
            enough.set()
        # Each ends with the next token that comes.
        answers = [stream.result() for stream in streams]
    assert [answer.error for answer in answers] == [None] * 4
    wait_for(lambda: len(replicas("RUNNING")["TimedEngine"]) == 2)
    assert len(replicas("RUNNING")["TimedEngine"] & before) == 1
    assert chat(service, 10).is_good


def test_an_engine_that_hangs_while_nobody_asks_is_replaced(service: Service) -> None:
    """Its own canary finds it, before the next user does."""
    before = replicas("RUNNING")["TimedEngine"]
    subprocess.run([sys.executable, "-c", HANG, service.ray_address], capture_output=True, check=True)
    wait_for(lambda: len(replicas("RUNNING")["TimedEngine"] - before) == 1)
    wait_for(lambda: len(replicas("RUNNING")["TimedEngine"]) == NUM_ENGINES)
    assert chat(service, 10).is_good


def test_from_zero_to_two_and_down(service: Service, tmp_path: Path) -> None:
    """The first request waits for an engine and is served; no stream is cut when one of two is given back."""
    scaling = {"min_replicas": 0, "downscale_delay_s": 1, "upscale_delay_s": 0}
    deploy(service, changed(timed_config(), engine=scaling), tmp_path)
    wait_for(lambda: not replicas("STARTING", "RUNNING", "STOPPING")["TimedEngine"])
    assert chat(service, 10).is_good

    short, long = int(3 * TOKENS_PER_S), int(8 * TOKENS_PER_S)
    with clients(service, 2 * CAP, short) as stop:
        wait_for(lambda: len(replicas("RUNNING")["TimedEngine"]) == 2)
        answers = stop()
    assert_all_whole(answers, short)
    # One on each engine: they ask for one engine only.
    with clients(service, 2, long) as stop:
        wait_for(lambda: len(replicas("STOPPING")["TimedEngine"]) == 1)
        wait_for(lambda: not replicas("STOPPING")["TimedEngine"])
        answers = stop()
    assert len(replicas("RUNNING")["TimedEngine"]) == 1
    assert {(answer.is_good, answer.num_tokens) for answer in answers} == {(True, long)}


def test_the_end(service: Service) -> None:
    """Stopping the service waits for open streams, longer than Serve would."""
    with clients(service, 2, int(5 * SHUTDOWN_S * TOKENS_PER_S)) as stop:
        wait_for_load(2, 0)
        # Ray ends a process that is connected when it goes.
        ray.shutdown()
        service.process.terminate()
        answers = stop()
    assert {answer.is_good for answer in answers} == {True}
    service.process.wait(TIMEOUT_S)
