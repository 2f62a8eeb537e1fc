"""Clients that leave at any moment, behind HAProxy and behind Serve's own proxy: nothing of them stays."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import ray
from ray import serve

from tests.services import MODEL, Service, running, wait_for_load
from tests.timed.conftest import CAP, NUM_ENGINES, timed_config, write
from tests.waiting import wait_until

pytestmark = pytest.mark.app

NUM_CLIENTS = 40
# As many at a time as may wait.
NUM_AT_A_TIME = 8
# What is left behind would run for ten minutes.
MANY_TOKENS = 30_000
TIMEOUT_S = 60
PADDING_BYTES = 2_000_000
# Forty bodies of two megabytes that stay are 80 MB at least, and 160 with what is made of them.
MAX_GROWTH_BYTES = 60_000_000
MAX_ROUNDS = 6


@dataclass(frozen=True)
class Phase:
    """How far clients let their requests come: each sends a share of its body, and leaves in some time."""

    within_s: float
    body: Callable[[random.Random], dict[str, Any]]
    sent: float = 1.0
    path: str = "/v1/chat/completions"
    is_full: bool = False
    """Whether all slots are taken before."""


def chat(**changes: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": "Hi"}]
    return {"model": MODEL, "messages": turns, "max_tokens": MANY_TOKENS, "ignore_eos": True} | changes


def with_a_new_grammar(choices: random.Random) -> dict[str, Any]:
    # Some 200 ms of work, for a grammar that nobody has asked for before.
    return chat(structured_outputs={"regex": f"(a|b|{choices.getrandbits(64):x}){{1,300}}"})


def long(choices: random.Random) -> dict[str, Any]:
    content = " ".join(str(choices.getrandbits(30)) for _ in range(8_000))
    return chat(messages=[{"role": "user", "content": content}])


PHASES = {
    "reading": Phase(0.2, lambda _: chat(user="x" * PADDING_BYTES), sent=0.9),
    "grammar": Phase(0.5, with_a_new_grammar),
    "waiting": Phase(0.5, lambda _: chat(), is_full=True),
    "waiting, stream": Phase(0.5, lambda _: chat(stream=True), is_full=True),
    "rendering": Phase(0.2, long),
    "generating": Phase(0.5, lambda _: chat(user="x" * PADDING_BYTES)),
    "generating, choices": Phase(0.5, lambda _: chat(n=4)),
    "generating, stream": Phase(0.5, lambda _: chat(stream=True)),
    "generating, Responses": Phase(
        0.5, lambda _: {"model": MODEL, "input": "Hi", "ignore_eos": True}, path="/v1/responses"
    ),
    "generating, Messages": Phase(0.5, lambda _: chat(stream=True), path="/v1/messages"),
}


async def begin(service: Service, phase: Phase, choices: random.Random) -> asyncio.StreamWriter:
    """Sends what a client of this phase sends, and reads nothing."""
    content = json.dumps(phase.body(choices)).encode()
    url = urlsplit(service.url)
    head = (
        f"POST {phase.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head.encode() + content[: int(phase.sent * len(content))])
    await writer.drain()
    return writer


async def leave(service: Service, phase: Phase, choices: random.Random) -> None:
    """One client, from beginning to end."""
    writer = await begin(service, phase, choices)
    await asyncio.sleep(choices.uniform(0, phase.within_s))
    # Half of the clients close their connections, the others' break.
    if choices.random() < 0.5:
        writer.close()
    else:
        writer.transport.abort()


async def leave_all(service: Service, phase: Phase, seed: int) -> None:
    at_a_time = asyncio.Semaphore(NUM_AT_A_TIME)

    async def one(number: int) -> None:
        async with at_a_time:
            await leave(service, phase, random.Random(f"{seed} {number}"))

    await asyncio.gather(*map(one, range(NUM_CLIENTS)))


Work = dict[int, dict[str, int]]


class Watched:
    """A service, and a process that looks into it: Serve's handles are for one Ray instance a process."""

    def __init__(self, service: Service, process: ProcessPoolExecutor) -> None:
        self.service, self._process = service, process

    def wait_for_load(self, num_running: int, num_waiting: int) -> None:
        """Until the gate knows of so many sequences."""
        self._process.submit(wait_for_load, num_running, num_waiting).result()

    def open_work(self) -> Work:
        """What each ingress has open, by its process id."""
        return self._process.submit(open_work).result()

    def wait_until_nothing_is_left(self, before: Work) -> None:
        """Until there is no more than there was without a client."""
        self.wait_for_load(0, 0)

        def is_as_before() -> bool:
            return all(
                work["requests"] == work["sequences"] == 0 and work["tasks"] <= before[pid]["tasks"]
                for pid, work in self.open_work().items()
            )

        wait_until(is_as_before, TIMEOUT_S, lambda: (before, self.open_work()), interval_s=0.5)


def connect(address: str) -> None:
    """What the process that looks begins with."""
    ray.init(address=address, namespace="serve", log_to_driver=False)


def open_work() -> Work:
    """In that process."""
    ingresses = serve.get_deployment_handle("Ingress", "gpt-oss")
    return {work.pop("pid"): work for work in ingresses.broadcast("open_work").results(timeout_s=60)}


def num_bytes(pids: list[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


@pytest.fixture(scope="module", params=["HAProxy", "Serve's proxy"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The service of this folder, and one like it without HAProxy."""
    with ExitStack() as ends:
        if request.param == "HAProxy":
            service: Service = request.getfixturevalue("service")
        else:
            folder = tmp_path_factory.mktemp("own")
            environment = {
                "SERVE_VENV": sys.prefix,
                "SERVE_HARDWARE": "cpu",
                "RAY_SERVE_ENABLE_HA_PROXY": "0",
            }
            command = ["scripts/serve", "--config", str(write(timed_config(), folder))]
            service = ends.enter_context(running(command, environment, folder / "serve.log"))
        process = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=connect, initargs=(service.ray_address,)
        )
        yield Watched(service, ends.enter_context(process))


@pytest.fixture(scope="module")
def before(watched: Watched) -> Work:
    """What is open without a client, once each kind of request has been seen."""
    watched.wait_for_load(0, 0)
    for phase in PHASES.values():
        asyncio.run(leave(watched.service, phase, random.Random(0)))
    watched.wait_for_load(0, 0)
    # Two calls of this test may be seen in one another.
    return {pid: work | {"tasks": work["tasks"] + 2} for pid, work in watched.open_work().items()}


@pytest.mark.parametrize("name", PHASES)
def test_clients_that_leave(watched: Watched, before: Work, name: str) -> None:
    phase = PHASES[name]

    async def run() -> None:
        if not phase.is_full:
            await leave_all(watched.service, phase, 1)
            return
        one = Phase(0.0, lambda _: chat())
        holders = [await begin(watched.service, one, random.Random(0)) for _ in range(NUM_ENGINES * CAP)]
        await asyncio.to_thread(watched.wait_for_load, NUM_ENGINES * CAP, 0)
        await leave_all(watched.service, phase, 1)
        await asyncio.to_thread(watched.wait_for_load, NUM_ENGINES * CAP, 0)
        for holder in holders:
            holder.close()

    asyncio.run(run())
    watched.wait_until_nothing_is_left(before)


def test_their_bodies_do_not_stay(watched: Watched, before: Work) -> None:
    """What stays makes the processes larger each time; an allocator that keeps what it had does not."""
    sizes: list[int] = []
    growth: list[int] = []
    for seed in range(2, 2 + MAX_ROUNDS):
        asyncio.run(leave_all(watched.service, PHASES["generating"], seed))
        watched.wait_until_nothing_is_left(before)
        sizes.append(num_bytes(list(before)))
        growth = [after - size for size, after in itertools.pairwise(sizes)]
        if growth and growth[-1] < MAX_GROWTH_BYTES:
            return
    pytest.fail(f"each time it was more: {growth}")
