"""What a drill has found, as JSON."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bare_node import machine
from benchmarks.chaos import sandbox
from benchmarks.chaos.drill import Found, Plan
from benchmarks.chaos.faults import Fault
from benchmarks.chaos.growth import MIB, MIN_SOAK_S, Sample, grown, slopes
from benchmarks.chaos.processes import ROLES
from benchmarks.chaos.service import Service
from benchmarks.chaos.shape import ROOT
from benchmarks.chaos.verdicts import FAILURES, Attempt, Outcome, Verdict, verdict

# Of each kind of failure, so many are told in full.
MAX_TOLD = 40
BIN_S = 5.0


def result(service: Service, plan: Plan, found: Found, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Returns everything, as plain data."""
    judged = [
        (attempt, verdict(attempt, found.expected[attempt.question.name], found.faults))
        for attempt in sorted(found.clients.attempts, key=lambda one: one.ended_s)
    ]
    counts = Counter(one.outcome for _, one in judged)
    streams = [a for a, one in judged if a.question.is_streamed and one.outcome is Outcome.WHOLE]
    slots = service.shape.engines * service.shape.slots
    failures = [(attempt, one) for attempt, one in judged if one.outcome in FAILURES]
    asked = len(judged) - counts[Outcome.LEFT]
    processes = slopes([*found.watch.samples, found.after])
    growing = grown(processes) if not plan.kinds and plan.duration_s >= MIN_SOAK_S else []
    return {
        "what": "a service under load and faults: what its clients get, and what is left behind",
        "command": " ".join(["python -m benchmarks.chaos", *_public(sys.argv[1:])]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine("pyzmq", "msgspec"),
        "engines": service.engines,
        "shape": asdict(service.shape),
        "nodes": len(service.nodes),
        "sandbox": sandbox.is_inside(),
        "seed": plan.seed,
        "minutes": round(plan.duration_s / 60, 2),
        "clients": plan.clients,
        "leaving": plan.leaving,
        "pausing": plan.pausing,
        "is_good": not (failures or found.lost or found.left_behind or growing),
        "outcomes": {name.value: counts[name] for name in Outcome},
        "share_whole": round(counts[Outcome.WHOLE] / asked, 5) if asked else None,
        "outcomes_by_question": _by_question(judged),
        "longest_pause_s": round(max((one.pause_s for one in streams), default=0.0), 2),
        "bounds": {
            "most_running": found.watch.most_running,
            "slots": slots,
            "most_waiting": found.watch.most_waiting,
            "gate_silent": found.watch.silent,
        },
        "left_behind": found.left_behind,
        "growing": growing,
        "not_recovered": found.lost,
        "missed": found.missed,
        "left_out": dict(left_out),
        "faults": [_fault(number, found.faults, judged) for number in range(len(found.faults))],
        "failures": [_told(attempt, one) for attempt, one in failures[:MAX_TOLD]],
        "processes": processes,
        "timeline": _timeline(judged, found.watch.samples),
    }


def summary(found: Mapping[str, Any]) -> str:
    """Returns the result in a few lines for a person."""
    lines = [
        f"{name}: {number}" for name, number in found["outcomes"].items() if number or name == Outcome.WHOLE
    ]
    lines.append(f"whole: {found['share_whole']:.2%}; longest pause: {found['longest_pause_s']} s")
    kinds = Counter(one["why"] for one in found["failures"])
    lines += [f"{number} x {why}" for why, number in kinds.most_common(12)]
    lines += [f"left behind: {one}" for one in found["left_behind"]]
    lines += [f"growing: {one}" for one in found["growing"]]
    lines += [f"not recovered: {one}" for one in found["not_recovered"]]
    lines += [f"left out: {name} {why}" for name, why in found["left_out"].items()]
    return "\n".join(lines)


def commit() -> str | None:
    """Returns the commit, None where git does not know it."""
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.check_output(git, text=True, stderr=subprocess.DEVNULL).strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _by_question(judged: Sequence[tuple[Attempt, Verdict]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for attempt, one in judged:
        kind = attempt.question.api + (", streamed" if attempt.question.is_streamed else "")
        found.setdefault(kind, Counter())[one.outcome.value] += 1
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def _fault(number: int, faults: Sequence[Fault], judged: Sequence[tuple[Attempt, Verdict]]) -> dict[str, Any]:
    fault = faults[number]
    end_s = faults[number + 1].at_s if number + 1 < len(faults) else float("inf")
    during = [(a, one) for a, one in judged if fault.at_s <= a.ended_s < end_s]
    failed = [a for a, one in during if one.outcome in FAILURES]
    pauses = [
        a.pause_s
        for a, one in judged
        if one.outcome is Outcome.WHOLE and fault.at_s <= a.pause_ended_s < end_s
    ]
    # Of those that were sent afterwards: when the first had its status, and when the last one failed.
    first_s = min((a.first_s for a, _ in judged if a.sent_s > fault.at_s and a.first_s), default=None)
    return {
        "kind": fault.kind.name,
        "target": fault.target,
        "at_s": round(fault.at_s, 1),
        "healed_after_s": _since(fault.at_s, fault.healed_s),
        "whole_after_s": _since(fault.at_s, fault.recovered_s),
        "next_answer_begins_after_s": _since(fault.at_s, first_s),
        "last_failure_sent_after_s": _since(fault.at_s, max((a.sent_s for a in failed), default=None)),
        "open": sum(a.sent_s <= fault.at_s < a.ended_s for a, _ in judged),
        "longest_pause_s": round(max(pauses, default=0.0), 2),
        "explained": sum(one.fault is fault for _, one in judged),
        "failures": len(failed),
    }


def _since(at_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else round(then_s - at_s, 1)


def _told(attempt: Attempt, one: Verdict) -> dict[str, Any]:
    return {
        "question": attempt.question.name,
        "behaviour": attempt.behaviour,
        "sent_s": round(attempt.sent_s, 2),
        "ended_s": round(attempt.ended_s, 2),
        "outcome": one.outcome.value,
        "why": one.why[:300],
    }


def _timeline(judged: Sequence[tuple[Attempt, Verdict]], samples: Sequence[Sample]) -> dict[str, Any]:
    """What ended in each bin, the longest pause that ended in it, and the largest process of each role."""
    end_s = max((a.ended_s for a, _ in judged), default=0.0)
    number = int(end_s / BIN_S) + 1
    outcomes = {name.value: [0] * number for name in Outcome}
    pauses = [0.0] * number
    for attempt, one in judged:
        outcomes[one.outcome.value][int(attempt.ended_s / BIN_S)] += 1
        index = int(attempt.pause_ended_s / BIN_S)
        pauses[index] = max(pauses[index], round(attempt.pause_s, 2))
    memory: dict[str, list[list[float]]] = {role: [] for role in ROLES}
    for sample in samples:
        for role in ROLES:
            sizes = [one.rss_bytes for one in sample.processes if one.role == role]
            if sizes:
                memory[role].append([round(sample.at_s, 1), round(max(sizes) / MIB, 1)])
    return {
        "bin_s": BIN_S,
        "ended": outcomes,
        "longest_pause_s": pauses,
        "rss_mib": {role: points for role, points in memory.items() if points},
    }


def _public(arguments: Sequence[str]) -> list[str]:
    """The command line without folders of this machine."""
    return [Path(a).name if a.startswith("/") else a for a in arguments]
