"""What ordinary clients get beside hostile ones, against what they get alone, kind by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.chaos.hostile.ordinary import Asked
from benchmarks.chaos.hostile.phases import MAX_TOLD, Phase

# Of the usual time.
MAX_RATIO = 2.0
# What is judged: the time until an answer is whole, and until its first piece has come.
JUDGED = ("whole_ms", "first_ms")
Figures = dict[str, float]


def share(values: Sequence[float], part: float) -> float:
    """Returns the value that this part of them does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def distribution(values: Sequence[float]) -> Figures:
    """Returns p50, p95 and the largest, in milliseconds."""
    found = {"p50": share(values, 0.5), "p95": share(values, 0.95), "max": max(values, default=0.0)}
    return {name: round(1000 * value, 1) for name, value in found.items()}


def times(asked: Iterable[Asked]) -> dict[str, Figures]:
    """Returns the distributions of the answers that are whole."""
    good = [one for one in asked if not one.problem]
    return {
        "first_ms": distribution([one.first_s for one in good if one.first_s is not None]),
        "between_ms": distribution([gap for one in good for gap in one.gaps_s]),
        "whole_ms": distribution([one.whole_s for one in good]),
    }


def ratios(beside: dict[str, Figures], alone: dict[str, Figures]) -> dict[str, Figures]:
    """Returns by how much each figure is larger."""
    return {
        name: {part: round(value / max(alone[name][part], 0.1), 2) for part, value in figures.items()}
        for name, figures in beside.items()
    }


def lines(phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """Returns a line for each kind and number of hostile clients, over all rounds."""
    groups: dict[tuple[str, int], list[int]] = {}
    for index, phase in enumerate(phases):
        if not phase.is_alone:
            groups.setdefault((phase.kind, phase.num_hostile), []).append(index)
    return [_line(kind, number, phases, indices) for (kind, number), indices in groups.items()]


def _line(kind: str, number: int, phases: Sequence[Phase], indices: Sequence[int]) -> dict[str, Any]:
    ours = [phases[index] for index in indices]
    around = {neighbour for index in indices for neighbour in (index - 1, index + 1)}
    beside_asked = [one for phase in ours for one in phase.asked]
    alone_asked = [one for index in around for one in phases[index].asked]
    beside, alone = times(beside_asked), times(alone_asked)
    found = ratios(beside, alone)
    problems = [one.problem for one in (*beside_asked, *alone_asked) if one.problem]
    wrong = [what for phase in ours for what in phase.wrong]
    statuses: Counter[str] = sum((phase.statuses for phase in ours), Counter())
    worst = max(found[name][part] for name in JUDGED for part in ("p50", "p95"))
    return {
        "kind": kind,
        "hostile_clients": number,
        "is_good": worst <= MAX_RATIO and not problems and not wrong,
        "worst_ratio": worst,
        "ratios": found,
        "beside": beside,
        "alone": alone,
        "answers": len(beside_asked),
        "answers_alone": len(alone_asked),
        "problems": problems[:MAX_TOLD],
        "hostile_statuses": dict(sorted(statuses.items())),
        "hostile_wrong": wrong[:MAX_TOLD],
        "hostile_took_ms": distribution([took for phase in ours for took in phase.took_s]),
    }
