"""A drill as a picture: how requests ended over time, the longest pause, memory, and the faults. SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.chaos import processes
from benchmarks.chaos.verdicts import Outcome
from serve_app.bench.picture import INK, Panel, opening
from serve_app.bench.picture import _text as text

WIDTH, LEFT, PANEL_WIDTH = 1080, 68, 970
TOP, GAP = 176, 74
ENDED, PAUSE, MEMORY = 190, 110, 130
MINUTE_S = 60.0
# From the bottom of a bar to its top.
COLORS = {
    Outcome.WHOLE: "#2b6cb0",
    Outcome.LEFT: "#a0aec0",
    Outcome.EXPLAINED: "#dd6b20",
    Outcome.UNEXPLAINED: "#9b2c2c",
    Outcome.WRONG: "#6b46c1",
}
ROLE_COLORS = {
    processes.INGRESS: "#2b6cb0",
    processes.REPLICA: "#dd6b20",
    processes.CORE: "#b7791f",
    processes.GATE: "#2f855a",
    processes.PROXY: "#9b2c2c",
    processes.CONTROLLER: "#6b46c1",
}
MARK = "#4a5568"


def draw(result: Mapping[str, Any]) -> str:
    """Returns the picture of a result as SVG."""
    timeline = result["timeline"]
    minutes = max(len(timeline["longest_pause_s"]) * timeline["bin_s"] / MINUTE_S, 0.1)
    height = TOP + ENDED + GAP + PAUSE + GAP + MEMORY + 56
    title = (
        f"{result['clients']} clients, {result['engines']} engines, {len(result['faults'])} faults: "
        f"{result['outcomes'][Outcome.WHOLE]:,} answers whole, longest pause {result['longest_pause_s']:g} s"
    )
    lines = opening(WIDTH, height, title)
    counts = {name.value: f"{name.value}: {result['outcomes'][name]:,}" for name in COLORS}
    lines += _legend(50, [(color, counts[name.value]) for name, color in COLORS.items()])
    lines += _ended(timeline, minutes)
    top = TOP + ENDED + GAP
    lines += _pauses(timeline, minutes, top)
    lines += _memory(timeline["rss_mib"], minutes, top + PAUSE + GAP)
    lines += _marks(result["faults"], minutes, height)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend(y: float, entries: Sequence[tuple[str, str]], x: float = 24.0) -> list[str]:
    lines = []
    for color, words in entries:
        lines.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="12" height="12" fill="{color}"/>')
        lines.append(text(x + 18, y + 11, words, size=12))
        x += 44 + 6.6 * len(words)
    return lines


def _marks(faults: Sequence[Mapping[str, Any]], minutes: float, height: float) -> list[str]:
    """A line through all panels for each fault, with its name above."""
    panel = Panel(LEFT, TOP, PANEL_WIDTH, ENDED, minutes, 1.0)
    lines = []
    for fault in faults:
        x, _ = panel.place(fault["at_s"] / MINUTE_S, 0)
        lines.append(
            f'<path d="M{x:.1f} {TOP}V{height - 56}" stroke="{MARK}" stroke-width="0.8" '
            'stroke-dasharray="3 3"/>'
        )
        lines.append(
            f'<text transform="translate({x + 3:.1f} {TOP - 6}) rotate(-50)" font-size="11" fill="{MARK}">'
            f"{html.escape(fault['kind'])}</text>"
        )
    return lines


def _ended(timeline: Mapping[str, Any], minutes: float) -> list[str]:
    bin_s, ended = timeline["bin_s"], timeline["ended"]
    totals = [sum(numbers) for numbers in zip(*ended.values(), strict=True)]
    panel = Panel(LEFT, TOP, PANEL_WIDTH, ENDED, minutes, max([*totals, 1]) / bin_s * 1.05)
    lines = panel.frame("", "minutes", lambda value: f"{value:g}")
    lines.append(text(24, TOP - 84, "Requests that ended, a second", weight=600))
    for index in range(len(totals)):
        below = 0.0
        for name, color in COLORS.items():
            rate = ended[name.value][index] / bin_s
            if rate:
                left, bottom = panel.place(index * bin_s / MINUTE_S, below)
                right, upper = panel.place((index + 1) * bin_s / MINUTE_S, below + rate)
                lines.append(
                    f'<rect x="{left:.1f}" y="{upper:.1f}" width="{right - left:.2f}" '
                    f'height="{bottom - upper:.2f}" fill="{color}"/>'
                )
                below += rate
    return lines


def _pauses(timeline: Mapping[str, Any], minutes: float, top: float) -> list[str]:
    pauses, bin_s = timeline["longest_pause_s"], timeline["bin_s"]
    panel = Panel(LEFT, top, PANEL_WIDTH, PAUSE, minutes, max([*pauses, 0.5]) * 1.1)
    lines = panel.frame("Longest pause in any stream, seconds", "minutes", lambda value: f"{value:g}")
    for index, pause in enumerate(pauses):
        x, y = panel.place((index + 0.5) * bin_s / MINUTE_S, pause)
        lines.append(f'<path d="M{x:.1f} {top + PAUSE:.1f}V{y:.1f}" stroke="{INK}" stroke-width="1.4"/>')
    return lines


def _memory(rss_mib: Mapping[str, Sequence[Sequence[float]]], minutes: float, top: float) -> list[str]:
    shown = {role: rss_mib[role] for role in ROLE_COLORS if role in rss_mib}
    most = max((size for points in shown.values() for _, size in points), default=1.0)
    panel = Panel(LEFT, top, PANEL_WIDTH, MEMORY, minutes, most * 1.1)
    lines = panel.frame("Memory of the largest process, MiB", "minutes", lambda value: f"{value:,.0f}")
    lines += _legend(top - 25, [(ROLE_COLORS[role], role) for role in shown], 330)
    for role, points in shown.items():
        lines.append(panel.line([(at_s / MINUTE_S, size) for at_s, size in points], ROLE_COLORS[role]))
    return lines
