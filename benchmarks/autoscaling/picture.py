"""Draws runs over time: offered load, replicas, queue and time to first token, a column for each trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.autoscaling.run import Run, Sample
from serve_app.bench.picture import PALE, Panel, Point, opening
from serve_app.bench.picture import _text as text

TRACES = "daily", "burst"
COLORS = {"chosen": "#2b6cb0", "target = cap": "#dd6b20", "Ray Serve LLM's defaults": "#9b2c2c"}
WIDTH, MARGIN, GAP = 1080, 72, 84
TOP, ROW, PANEL = 118, 196, 130
BIN_S, MINUTE_S = 30.0, 60.0


def draw(runs: dict[str, list[Run]]) -> str:
    """Returns the picture as SVG, from the runs of each policy in COLORS."""
    title = "Ray Serve's autoscaling code over simulated replicas, 85 s from decision to ready"
    height = TOP + 4 * ROW + 8
    lines = opening(WIDTH, height, title)
    x = 24.0
    for name, color in COLORS.items():
        lines.append(f'<rect x="{x:.0f}" y="50" width="12" height="12" fill="{color}"/>')
        lines.append(text(x + 18, 61, name, size=12))
        x += 50 + 7 * len(name)
    lines.append(text(WIDTH - 24, 61, "thin: with those that start", anchor="end", size=12, color=PALE))
    for column, trace in enumerate(TRACES):
        chosen = {name: run for name in COLORS for run in runs[name] if run.trace.name == trace}
        lines += _column(column, chosen)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _column(column: int, runs: dict[str, Run]) -> list[str]:
    trace = next(iter(runs.values())).trace
    width = (WIDTH - 2 * MARGIN - GAP + 40) / 2
    left = MARGIN + column * (width + GAP)
    minutes = trace.duration_s / MINUTE_S
    load = _load(trace.arrivals_s, trace.duration_s)
    samples = {name: [s for s in run.samples if s.time_s <= trace.duration_s] for name, run in runs.items()}
    queues = {name: _queue(found) for name, found in samples.items()}
    waits = {name: _ttft(run) for name, run in runs.items()}
    most = max(sample.ready + sample.starting for found in samples.values() for sample in found)
    longest = max(y for points in queues.values() for _, y in points)
    panels = [
        (f"{trace.name}: requests a second", max(y for _, y in load) * 1.1),
        ("engine replicas", most + 1.0),
        ("requests that wait", longest * 1.1 or 1.0),
        ("time to first token, p95 of 30 s, seconds", 34.0),
    ]
    lines: list[str] = []
    for row, (title, y_max) in enumerate(panels):
        panel = Panel(left, TOP + row * ROW, width, PANEL, minutes, y_max)
        lines += panel.frame(title, "minutes", lambda value: f"{value:g}")
        if row == 0:
            lines.append(panel.line(load, PALE))
        # What was chosen comes last, on top of the others.
        for name in reversed(COLORS):
            color = COLORS[name]
            if row == 1:
                line = panel.line(_steps(samples[name], with_starting=True), color)
                lines.append(line.replace('stroke-width="1.8"', 'stroke-width="0.8"'))
                lines.append(panel.line(_steps(samples[name], with_starting=False), color))
            elif row > 1:
                lines.append(panel.line((queues if row == 2 else waits)[name], color))
    return lines


def _load(arrivals_s: Sequence[float], duration_s: float) -> list[Point]:
    edges = np.arange(0, duration_s + BIN_S, BIN_S)
    counts, _ = np.histogram(arrivals_s, edges)
    middles = (edges[:-1] + edges[1:]) / 2 / MINUTE_S
    return list(zip(middles.tolist(), (counts / BIN_S).tolist(), strict=True))


def _steps(samples: Sequence[Sample], *, with_starting: bool) -> list[Point]:
    """The corners of a line that stays level between changes."""
    points: list[Point] = []
    for sample in samples:
        value = float(sample.ready + (sample.starting if with_starting else 0))
        if points and points[-1][1] != value:
            points.append((sample.time_s / MINUTE_S, points[-1][1]))
        if not points or points[-1][1] != value or sample is samples[-1]:
            points.append((sample.time_s / MINUTE_S, value))
    return points


def _queue(samples: Sequence[Sample]) -> list[Point]:
    """The longest in each bin."""
    longest: dict[int, int] = {}
    for sample in samples:
        number = int(sample.time_s // BIN_S)
        longest[number] = max(longest.get(number, 0), sample.queued)
    return [((number + 0.5) * BIN_S / MINUTE_S, float(value)) for number, value in longest.items()]


def _ttft(run: Run) -> list[Point]:
    """Of the requests that arrived in each bin and were served."""
    arrivals, ttft_s = run.ttft_s()
    bins = (arrivals // BIN_S).astype(int)
    return [
        ((number + 0.5) * BIN_S / MINUTE_S, float(np.percentile(ttft_s[bins == number], 95)))
        for number in np.unique(bins).tolist()
    ]
