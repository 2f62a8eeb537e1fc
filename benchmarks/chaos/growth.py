"""What a load has left behind, and what grows under it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.chaos.processes import ROLES, Process

MIB = 1 << 20
HOUR_S = 3600.0
# A heap that has been used is not given back to the last byte; what requests leave behind is larger.
MAX_RSS_BYTES, MAX_RSS_SHARE = 48 * MIB, 0.10
# Connections that are kept alive between parts of the service come and go.
MAX_FDS, MAX_TASKS = 24, 4
# Caches fill in the beginning: a slope is that of the rest.
WARM_SHARE = 1 / 3
# What a line through an hour of samples may rise while nothing grows: loads go up and down, and heaps wander.
# Of memory it is MiB, or a share of what the process has.
MAX_AN_HOUR = {"rss_mib": 24.0, "fds": 16.0, "threads": 4.0, "tasks": 16.0, "requests": 8.0, "sequences": 8.0}
MAX_RSS_SHARE_AN_HOUR = 0.05
# In less time a line says more of the load than of what grows.
MIN_SOAK_S = 1800.0


@dataclass(frozen=True)
class Sample:
    """What the processes held at a time, and what each ingress had open (by id)."""

    at_s: float
    processes: tuple[Process, ...]
    ingresses: Mapping[int, Mapping[str, int]]


def left_behind(before: Sample, after: Sample, work: Mapping[str, Any]) -> list[str]:
    """Returns what is there after a load and was not before, in words. `work` is what was open at its end."""
    found = []
    if list(work["gate"]) != [0, 0]:
        found.append(f"the gate has {work['gate'][0]} sequences running and {work['gate'][1]} waiting")
    if any(work["engines"]):
        found.append(f"engines have unfinished requests: {work['engines']}")
    for one in work["ingresses"]:
        found += [f"ingress {one['pid']} has {one[k]} {k}" for k in ("requests", "sequences") if one[k]]
    most_tasks = max((one["tasks"] for one in before.ingresses.values()), default=0)
    for pid, one in after.ingresses.items():
        if one["tasks"] > most_tasks + MAX_TASKS:
            found.append(f"ingress {pid} has {one['tasks']} tasks; before there were {most_tasks}")
    return found + _of_processes(before.processes, after.processes)


def _of_processes(before: Sequence[Process], after: Sequence[Process]) -> list[str]:
    found = []
    old, largest = {one.pid: one for one in before}, _largest(before)
    for role in ROLES:
        numbers = [sum(one.role == role for one in some) for some in (before, after)]
        if numbers[0] != numbers[1]:
            found.append(f"{numbers[1]} of {role}, not {numbers[0]}")
    for one in after:
        if one.role not in ROLES:
            continue
        # One that is new is as large as the largest of its kind.
        was = old.get(one.pid) or largest.get(one.role) or one
        allowed = was.rss_bytes + max(MAX_RSS_BYTES, MAX_RSS_SHARE * was.rss_bytes)
        if one.rss_bytes > allowed:
            found.append(
                f"{one.role} {one.pid} has {one.rss_bytes // MIB} MiB; before {was.rss_bytes // MIB}"
            )
        if one.fds > was.fds + MAX_FDS:
            found.append(f"{one.role} {one.pid} has {one.fds} file descriptors; before {was.fds}")
    return found


def _largest(some: Sequence[Process]) -> dict[str, Process]:
    largest: dict[str, Process] = {}
    for one in some:
        if one.role not in largest or one.rss_bytes > largest[one.role].rss_bytes:
            largest[one.role] = one
    return largest


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Returns by how much a line through the points rises in an hour; 0 where there are too few."""
    if len({x for x, _ in points}) < 3:
        return 0.0
    x, y = np.array(points, dtype=float).T
    return float(np.polyfit(x / HOUR_S, y, 1)[0])


def slopes(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Returns a line for each process that was there all the time: what it holds, and gains an hour."""
    if not samples:
        return []
    begin_s = samples[0].at_s + WARM_SHARE * (samples[-1].at_s - samples[0].at_s)
    rest = [sample for sample in samples if sample.at_s >= begin_s]
    series: dict[tuple[str, int], dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for sample in rest:
        for one in sample.processes:
            if one.role in ROLES:
                of = series[one.role, one.pid]
                of["rss_mib"].append((sample.at_s, one.rss_bytes / MIB))
                of["fds"].append((sample.at_s, one.fds))
                of["threads"].append((sample.at_s, one.threads))
                for name in ("tasks", "requests", "sequences"):
                    if name in (work := sample.ingresses.get(one.pid, {})):
                        of[name].append((sample.at_s, work[name]))
    lines = []
    for (role, pid), of in sorted(series.items()):
        if len(of["rss_mib"]) < len(rest):
            continue
        figures = {
            name: {
                "first": round(points[0][1], 1),
                "last": round(points[-1][1], 1),
                "most": round(max(y for _, y in points), 1),
                "an_hour": round(slope(points), 2),
            }
            for name, points in of.items()
        }
        lines.append({"role": role, "pid": pid, **figures})
    return lines


def grown(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what grows under a load that stays the same, in words. `lines` are those of `slopes`."""
    found = []
    for line in lines:
        for name, most in MAX_AN_HOUR.items():
            if (figures := line.get(name)) is None:
                continue
            if name == "rss_mib":
                most = max(most, MAX_RSS_SHARE_AN_HOUR * figures["first"])
            if figures["an_hour"] > most:
                found.append(f"{line['role']} {line['pid']}: {figures['an_hour']:+g} {name} an hour")
    return found
