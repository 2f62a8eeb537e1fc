"""A drill: a service, clients, faults, and what became of all of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.answers import Answer
from benchmarks.chaos.faults import Fault, Kind
from benchmarks.chaos.growth import Sample, left_behind
from benchmarks.chaos.injection import Injection, NoTargetError
from benchmarks.chaos.questions import Question
from benchmarks.chaos.schedule import Planned, schedule
from benchmarks.chaos.service import Service
from benchmarks.chaos.traffic import Clients
from benchmarks.chaos.verdicts import End
from benchmarks.chaos.watch import Probe, ProbeError, Watch

# What ends later than this after the load has not been cleaned up but has run out.
SETTLE_TIMEOUT_S = 60.0
WARM_UP_S = 15.0
ASKED_AT_ONCE = 16
SAMPLE_S, SOAK_SAMPLE_S = 5.0, 20.0
PROGRESS_S = 60.0


class NoReferenceError(Exception):
    """A question that is not answered while there is no fault: there is nothing to compare with."""


@dataclass(frozen=True)
class Plan:
    """What a drill is to do."""

    seed: int
    duration_s: float
    spacing_s: float
    kinds: Sequence[Kind]
    clients: int
    leaving: float
    pausing: float
    questions: Sequence[Question]


@dataclass
class Found:
    """What has happened."""

    clients: Clients
    expected: dict[str, Answer]
    watch: Watch
    before: Sample
    after: Sample
    faults: list[Fault] = field(default_factory=list)
    # Faults that found nothing to hit, and those after which not everything came back, in words.
    missed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)


async def drill(service: Service, plan: Plan) -> Found:
    """Runs a drill. Raises `NoReferenceError`."""
    probe = Probe(service)
    try:
        expected = await reference(service, plan.questions)
        say(f"{len(expected)} answers of an unbroken run")
        warm_up = Clients(service.url, plan.questions, plan.seed, expected, leaving=0.1, pausing=0.0)
        await _during(warm_up, plan.clients, asyncio.sleep(WARM_UP_S))
        clients = Clients(
            service.url, plan.questions, plan.seed, expected, leaving=plan.leaving, pausing=plan.pausing
        )
        watch = Watch(service, probe, clients.now_s)
        if lacking := await watch.until_whole():
            raise NoReferenceError(f"the service is not whole before the first fault: {lacking}")
        await settled_work(probe)
        before = await watch.sample()
        clients.begin()
        found = Found(clients, expected, watch, before, before)
        interval_s = SAMPLE_S if plan.kinds else SOAK_SAMPLE_S
        watching = asyncio.create_task(watch.run(interval_s, with_ingresses=not plan.kinds))
        try:
            await _during(clients, plan.clients, _faults(service, plan, found))
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        if lacking := await watch.until_whole():
            found.lost.append(f"at the end: {lacking}")
        found.after, found.left_behind = await _what_stays(watch, probe, before)
        return found
    finally:
        await probe.close()


async def _what_stays(watch: Watch, probe: Probe, before: Sample) -> tuple[Sample, list[str]]:
    """What the processes hold when the load has gone, and what of it is there by mistake."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SETTLE_TIMEOUT_S
    while True:
        work = await settled_work(probe)
        after = await watch.sample()
        kept = left_behind(before, after, work) if work else ["the service does not say"]
        if not kept or loop.time() > end_s:
            return after, kept
        # HAProxy closes some of its idle connections every five seconds, and tells nobody.
        await asyncio.sleep(SAMPLE_S)


async def reference(service: Service, questions: Iterable[Question]) -> dict[str, Answer]:
    """Returns the answer to each question. Raises `NoReferenceError`."""
    client = Clients(service.url, [], 0, {}, leaving=0.0, pausing=0.0)
    turns = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(question: Question) -> tuple[str, Answer]:
        async with turns:
            attempt = await client.ask(question, "", random.Random(0))
        if attempt.end is not End.ANSWER or attempt.answer is None:
            raise NoReferenceError(f"{question.name}: {attempt.end} {attempt.detail}")
        return question.name, attempt.answer

    return dict(await asyncio.gather(*map(ask, questions)))


async def _during(clients: Clients, number: int, doing: Any) -> None:
    running = asyncio.create_task(clients.run(number))
    try:
        await doing
    finally:
        clients.stop()
        await running


async def _faults(service: Service, plan: Plan, found: Found) -> None:
    now_s, injection = found.clients.now_s, Injection(service, found.clients.now_s)
    for planned in schedule(plan.seed, plan.duration_s, plan.spacing_s, plan.kinds):
        if now_s() > plan.duration_s:
            found.missed.append(f"{planned.kind.name}: the time was up")
            continue
        await asyncio.sleep(planned.at_s - now_s())
        await _fault(planned, injection, found)
    while (rest_s := plan.duration_s - now_s()) > 0:
        await asyncio.sleep(min(rest_s, PROGRESS_S))
        say(f"{now_s():7.1f} s  {len(found.clients.attempts)} requests have ended")


async def _fault(planned: Planned, injection: Injection, found: Found) -> None:
    now_s = found.clients.now_s
    try:
        hit = await asyncio.to_thread(injection.do, planned)
    except NoTargetError as error:
        found.missed.append(f"{planned.kind.name}: {error}")
        say(f"{now_s():7.1f} s  {planned.kind.name}: {error}")
        return
    fault = Fault(planned.kind, hit.target, hit.at_s, now_s())
    found.faults.append(fault)
    if hit.undo and planned.lasts_s:
        await asyncio.sleep(planned.lasts_s)
        await asyncio.to_thread(hit.undo)
        fault.healed_s = now_s()
    lacking = await found.watch.until_whole(hit.without)
    if lacking:
        found.lost.append(f"{planned.kind.name} at {fault.at_s:.0f} s: {lacking}")
    else:
        fault.recovered_s = now_s()
    after = lacking or f"whole after {now_s() - fault.at_s:.1f} s"
    say(f"{fault.at_s:7.1f} s  {planned.kind.name}: {fault.target}; {after}")


async def settled_work(probe: Probe) -> Any:
    """What is open once nothing changes any more; None if the service does not say."""
    work: Any = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while work is None or not _is_idle(work):
                with contextlib.suppress(ProbeError):
                    work = await probe.ask("open work")
                await asyncio.sleep(1)  # nothing tells when a service is idle
    return work


def _is_idle(work: Any) -> bool:
    is_open = any(one["requests"] or one["sequences"] for one in work["ingresses"])
    return not is_open and work["gate"] == [0, 0] and not any(work["engines"])


def say(text: str) -> None:
    """Progress."""
    print(text, flush=True)
