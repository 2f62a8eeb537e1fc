"""Hostile requests beside ordinary ones: does anybody's request cost another's anything?

    python -m benchmarks.chaos.strangers --ingresses 1 --out FILE.json --picture FILE.svg
    python -m benchmarks.chaos.strangers --kinds schemas,leaving --phase-s 10 --rounds 3

Ordinary clients ask all the time, and are alone in every second phase. In the others one client sends one
kind of hostile requests, or eight do at once. Timed engines, HAProxy, in namespaces as in the drill. The exit
status is 1 when ordinary clients waited for more than twice their usual time, an answer or a status was
wrong, a process has died, or something was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bare_node import machine
from benchmarks.chaos import sandbox
from benchmarks.chaos.drill import settled_work
from benchmarks.chaos.growth import left_behind
from benchmarks.chaos.hostile import figures
from benchmarks.chaos.hostile.kinds import KINDS
from benchmarks.chaos.hostile.ordinary import Ordinary, questions
from benchmarks.chaos.hostile.phases import Phase, alternate, once
from benchmarks.chaos.hostile.picture import draw
from benchmarks.chaos.hostile.request import Kind
from benchmarks.chaos.processes import ROLES
from benchmarks.chaos.result import commit
from benchmarks.chaos.service import NotReadyError, Service
from benchmarks.chaos.shape import TIMED, Shape
from benchmarks.chaos.watch import Probe, Watch
from benchmarks.serving.arms import free_port


def parser() -> argparse.ArgumentParser:
    """Returns the command line's."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--kinds", default="all", help=f"all, or names with commas: {', '.join(KINDS)}")
    found.add_argument("--ingresses", type=int, default=1, help="with one, no other can answer in its place")
    found.add_argument("--phase-s", type=float, default=6.0, help="of each phase")
    found.add_argument("--rounds", type=int, default=2, help="of all kinds")
    found.add_argument("--steps-per-second", type=float, default=60.0, help="tokens of a stream in a second")
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--out", type=Path, help="write the result as JSON")
    found.add_argument("--picture", type=Path, help="draw the result as SVG")
    found.add_argument("--draw", type=Path, metavar="FILE", help="draw this result, and run nothing")
    found.add_argument("--keep-log", type=Path, metavar="FILE", help="where the service's log goes")
    return found


def main() -> int:
    """Command line; returns the exit status."""
    options = parser().parse_args()
    if options.draw:
        options.picture.write_text(draw(json.loads(options.draw.read_text())))
        return 0
    names = list(KINDS) if options.kinds == "all" else options.kinds.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        print(f"there is no kind {unknown[0]}; there are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    kinds = [KINDS[name] for name in names]

    def without(_: Path) -> int:
        print("this needs Linux namespaces, which are not allowed here", file=sys.stderr)
        return 2

    return sandbox.main(
        "benchmarks.chaos.strangers", lambda folder: _measured(options, kinds, folder), without
    )


def _measured(options: argparse.Namespace, kinds: Sequence[Kind], folder: Path) -> int:
    try:
        shape = Shape(2, options.ingresses, 256, steps_per_second=options.steps_per_second)
        with running(folder, shape) as service:
            found = asyncio.run(_measure(service, options, kinds))
    except NotReadyError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if options.keep_log:
            shutil.copy(folder / "log", options.keep_log)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        options.picture.write_text(draw(found))
    print(summary(found))
    return 0 if found["is_good"] else 1


@contextlib.contextmanager
def running(folder: Path, shape: Shape) -> Iterator[Service]:
    """A service of this shape on one node, from when it answers to the end of the block."""
    sandbox.prepare_network()
    with (folder / "log").open("w") as log:
        service = Service(folder, TIMED, shape, sandbox.NODES[:1], free_port(), False, log)
        try:
            service.start()
            yield service
        finally:
            service.end()


async def _measure(service: Service, options: argparse.Namespace, kinds: Sequence[Kind]) -> dict[str, Any]:
    address = "127.0.0.1", service.port
    probe = Probe(service)
    ordinary = Ordinary(address, questions(options.seed))
    loop = asyncio.get_running_loop()
    try:
        await ordinary.learn()
        watch = Watch(service, probe, loop.time)
        if lacking := await watch.until_whole():
            raise NotReadyError(lacking)
        # What is to stay is there then: caches, workers, connections.
        await once(address, kinds, options.seed + 1)
        await settled_work(probe)
        before = await watch.sample()
        asking = asyncio.create_task(ordinary.run())
        phases = await alternate(address, ordinary, kinds, options.seed, options.phase_s, options.rounds)
        ordinary.stop()
        await asking
        lacking = await watch.until_whole()
        work = await settled_work(probe)
        after = await watch.sample()
    finally:
        await probe.close()
    left = left_behind(before, after, work) if work else ["the service does not say what is open"]
    old, new = (
        {(one.pid, one.role) for one in some.processes if one.role in ROLES} for some in (before, after)
    )
    died = [f"{role} {pid}" for pid, role in sorted(old - new)] + ([lacking] if lacking else [])
    return _result(service, options, phases, left, died)


def _result(
    service: Service, options: argparse.Namespace, phases: Sequence[Phase], left: list[str], died: list[str]
) -> dict[str, Any]:
    lines = figures.lines(phases)
    return {
        "what": "ordinary clients beside hostile ones, against the same clients alone",
        "command": f"python -m benchmarks.chaos.strangers --ingresses {options.ingresses} "
        f"--phase-s {options.phase_s:g} --rounds {options.rounds} --seed {options.seed}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine("pyzmq", "msgspec"),
        "shape": dataclasses.asdict(service.shape),
        "is_good": all(line["is_good"] for line in lines) and not left and not died,
        "died": died,
        "left_behind": left,
        "alone": figures.times([one for phase in phases if phase.is_alone for one in phase.asked]),
        "kinds": lines,
    }


def summary(found: dict[str, Any]) -> str:
    """Returns the result in a few lines for a person."""
    alone = found["alone"]
    lines = [f"alone: first {alone['first_ms']}, whole {alone['whole_ms']} (ms)"]
    for line in found["kinds"]:
        ratios = line["ratios"]
        lines.append(
            f"{'good' if line['is_good'] else 'BAD ':4} {line['kind']:16} x{line['hostile_clients']}  "
            f"whole p50 {ratios['whole_ms']['p50']:5.2f} p95 {ratios['whole_ms']['p95']:5.2f}  "
            f"first p50 {ratios['first_ms']['p50']:5.2f} p95 {ratios['first_ms']['p95']:5.2f}  "
            f"longest pause {line['beside']['between_ms']['max']:.0f} ms  {line['hostile_statuses']}"
        )
        lines += [f"     {what}" for what in (*line["problems"][:3], *line["hostile_wrong"][:3])]
    lines += [f"died: {one}" for one in found["died"]] + [
        f"left behind: {one}" for one in found["left_behind"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
