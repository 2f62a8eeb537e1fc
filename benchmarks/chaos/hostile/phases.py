"""Phases: ordinary clients alone, then beside one hostile client, and beside eight, kind by kind."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.hostile.client import send
from benchmarks.chaos.hostile.ordinary import Asked, Ordinary
from benchmarks.chaos.hostile.request import BUSY, Hostile, Kind

ALONE = "alone"
# How many hostile clients there are at a time, and how long each waits before its next request at least.
CROWDS = {1: 0.1, 8: 0.25}
SETTLE_S = 0.5
MAX_TOLD = 10


@dataclass
class Phase:
    """A time, what ordinary clients sent in it, and what became of hostile requests."""

    kind: str
    num_hostile: int
    begin_s: float = 0.0
    end_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_alone(self) -> bool:
        """Whether there was nobody hostile."""
        return self.num_hostile == 0

    def note(self, kind: Kind, hostile: Hostile, status: int | None, problem: str) -> None:
        """Counts a hostile request that has ended."""
        self.statuses[str(status)] += 1
        if not problem and not kind.is_right(hostile, status):
            problem = f"status {status}"
        if problem:
            self.wrong.append(f"{hostile.name}: {problem}")


async def alternate(
    address: tuple[str, int],
    ordinary: Ordinary,
    kinds: Sequence[Kind],
    seed: int,
    phase_s: float,
    rounds: int,
) -> list[Phase]:
    """Returns all phases, in order: each hostile one stands between two alone."""
    phases = [await _alone(phase_s)]
    for number in range(rounds):
        for kind in kinds:
            for num_hostile, pause_s in CROWDS.items():
                phase = Phase(kind.name, num_hostile)
                drawn = random.Random(f"{seed} {number} {kind.name} {num_hostile}")
                phase.begin_s = time.monotonic()
                await asyncio.gather(
                    *(
                        _hostile(address, kind, phase, drawn, client, phase_s, pause_s)
                        for client in range(num_hostile)
                    )
                )
                phase.end_s = time.monotonic()
                told = dict(phase.statuses)
                print(f"{kind.name}, {num_hostile}: {told} {phase.wrong[:2]}", flush=True)
                phases += [phase, await _alone(phase_s)]
    for asked in ordinary.asked:
        for phase in phases:
            if phase.begin_s <= asked.sent_s < phase.end_s:
                phase.asked.append(asked)
    return phases


async def once(address: tuple[str, int], kinds: Sequence[Kind], seed: int) -> list[Phase]:
    """Sends one request of each form, kind by kind, and returns what became of them."""
    phases = []
    for kind in kinds:
        phase, drawn = Phase(kind.name, 1, time.monotonic()), random.Random(f"{seed} {kind.name}")
        for number in range(len(kind.forms)):
            await attack(address, kind, kind.draw(drawn, number), phase, drawn)
        phase.end_s = time.monotonic()
        print(f"once: {kind.name}: {dict(phase.statuses)} {phase.wrong}", flush=True)
        phases.append(phase)
    return phases


async def _alone(phase_s: float) -> Phase:
    await asyncio.sleep(SETTLE_S)
    begin_s = time.monotonic()
    await asyncio.sleep(phase_s)
    return Phase(ALONE, 0, begin_s, time.monotonic())


async def _hostile(
    address: tuple[str, int],
    kind: Kind,
    phase: Phase,
    drawn: random.Random,
    client: int,
    phase_s: float,
    pause_s: float,
) -> None:
    # Each begins with another form.
    number = client * len(kind.forms) // max(phase.num_hostile, 1)
    while time.monotonic() < phase.begin_s + phase_s:
        # In a thread: a body of megabytes takes a while to write down, which is none of the service's time.
        hostile = await asyncio.to_thread(kind.draw, drawn, number)
        number += 1
        began_s = time.monotonic()
        await attack(address, kind, hostile, phase, drawn)
        await asyncio.sleep(max(began_s + pause_s - time.monotonic(), 0))


async def attack(
    address: tuple[str, int], kind: Kind, hostile: Hostile, phase: Phase, drawn: random.Random
) -> None:
    """Sends one hostile request, and notes what became of it."""
    try:
        reply = await send(address, hostile, drawn)
    except TimeoutError:
        phase.note(kind, hostile, None, "no answer")
        return
    except OSError as error:
        phase.note(kind, hostile, None, f"{type(error).__name__}: {error}")
        return
    phase.took_s.append(reply.took_s)
    problem = ""
    if hostile.statuses and not reply.is_well_said and not hostile.is_for_proxy:
        problem = f"{reply.status} with {reply.content[:200]!r}"
    if reply.status in BUSY and kind.may_be_busy and b'"error"' not in reply.content:
        problem = f"{reply.status} of nobody: {reply.content[:200]!r}"
    phase.note(kind, hostile, reply.status, problem)
