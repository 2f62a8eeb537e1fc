"""A result as a picture: how times are distributed, and what arrived when. SVG, nothing but text."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serve_app.bench import statistics
from serve_app.bench.result import Result, Round

WIDTH, HEIGHT = 1080, 640
COLORS = ("#2b6cb0", "#dd6b20", "#2f855a", "#9b2c2c", "#6b46c1", "#b7791f")
INK, PALE, GRID, CARD = "#1f2933", "#52606d", "#e4e7eb", "#fbfcfd"
FONT = "-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
# An axis ends a little beyond the 99th percentile: what is beyond would press the rest against the left.
TAIL_SHARE = 1.15
MIN_BIN_S, NUM_BINS = 0.1, 120
Floats = npt.NDArray[np.float64]
Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A rectangle with axes that begin at 0; `x_max` and `y_max` are where they end."""

    left: float
    top: float
    width: float
    height: float
    x_max: float
    y_max: float

    def place(self, x: float, y: float) -> Point:
        """Returns where a value lies in the picture."""
        return (
            self.left + self.width * min(x / self.x_max, 1),
            self.top + self.height * (1 - min(y / self.y_max, 1)),
        )

    def frame(self, title: str, x_title: str, y_form: Callable[[float], str]) -> list[str]:
        """Returns title, grid and ticks."""
        bottom = self.top + self.height
        lines = [_text(self.left - 44, self.top - 14, title, weight=600)]
        for tick in ticks(self.y_max):
            _, y = self.place(0, tick)
            lines.append(f'<path d="M{self.left:.1f} {y:.1f}h{self.width:.1f}" stroke="{GRID}"/>')
            lines.append(_text(self.left - 8, y + 4, y_form(tick), anchor="end", color=PALE))
        for tick in ticks(self.x_max):
            x, _ = self.place(tick, 0)
            lines.append(f'<path d="M{x:.1f} {bottom:.1f}v4" stroke="{PALE}"/>')
            lines.append(_text(x, bottom + 18, f"{tick:g}", anchor="middle", color=PALE))
        lines.append(_text(self.left + self.width, bottom + 34, x_title, anchor="end", color=PALE))
        lines.append(f'<path d="M{self.left:.1f} {bottom:.1f}h{self.width:.1f}" stroke="{PALE}"/>')
        return lines

    def line(self, points: Iterable[Point], color: str) -> str:
        """Returns a line through values; it ends where the axis does."""
        inside = [point for point in points if point[0] <= self.x_max]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in inside))
        return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="1.8"/>'


def draw(result: Result) -> str:
    """Returns the picture as SVG."""
    rounds = result.rounds
    load = result.load
    how = f"{load.concurrency} at a time" if load.concurrency else f"{load.rate:g} requests/s"
    title = f"{result.model}: {how}, {_shape(rounds)}"
    lines = opening(WIDTH, HEIGHT, title)
    lines += _legend(rounds)
    lines += _distribution(68, "Time to first token", [_ttft_ms(one) for one in rounds])
    lines += _distribution(598, "Inter-token latency", [_itl_ms(one) for one in rounds])
    lines += _throughput(rounds)
    return "\n".join([*lines, "</svg>"]) + "\n"


def ticks(end: float) -> list[float]:
    """Returns three to six round values from 0 to `end`."""
    step = 10.0 ** math.floor(math.log10(end))
    step *= next(factor for factor in (0.1, 0.2, 0.5, 1, 2) if end / (step * factor) < 6)
    return [round(step * number, 10) for number in range(int(end / step + 1e-9) + 1)]


def _distribution(left: float, title: str, rounds_ms: Sequence[Floats]) -> list[str]:
    known = [values for values in rounds_ms if len(values)]
    if not known:
        return [_text(left, 160, f"{title}: nothing was measured", color=PALE)]
    end = max(float(np.percentile(values, 99)) for values in known) * TAIL_SHARE or 1.0
    panel = Panel(left, 112, 440, 190, end, 1.0)
    lines = panel.frame(f"{title}, cumulative share", "ms", lambda share: f"{share:.0%}")
    shares = np.linspace(0, 1, 401)
    for number, values in enumerate(rounds_ms):
        if len(values):
            points = zip(np.quantile(values, shares).tolist(), shares.tolist(), strict=True)
            lines.append(panel.line(points, COLORS[number % len(COLORS)]))
    together = np.concatenate(known)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        value = float(np.quantile(together, share))
        x, y = panel.place(value, share)
        is_right = x > left + panel.width * 0.7
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{INK}"/>')
        anchor, offset = ("end", -8) if is_right else ("start", 8)
        lines.append(_text(x + offset, y + 18, f"{name} {_number(value)} ms", anchor=anchor, halo=True))
    return lines


def _throughput(rounds: Sequence[Round]) -> list[str]:
    curves = [_rate(one) for one in rounds]
    end_s = max(one.duration_s for one in rounds)
    top = max((float(rates.max()) for _, rates in curves if len(rates)), default=0.0) * 1.1 or 1.0
    panel = Panel(68, 402, 970, 170, end_s, top)
    lines = panel.frame("Output tokens a second", "seconds since the round began", _number)
    for number, (times_s, rates) in enumerate(curves):
        points: list[Point] = []
        for begin_s, end_of_s, rate in zip(times_s[:-1], times_s[1:], rates, strict=True):
            points += [(float(begin_s), float(rate)), (float(end_of_s), float(rate))]
        lines.append(panel.line(points, COLORS[number % len(COLORS)]))
    return lines


def _rate(one: Round) -> tuple[Floats, Floats]:
    arrivals_ns, tokens = statistics.arrivals(one.records)
    num_bins = max(1, min(NUM_BINS, int(one.duration_s / MIN_BIN_S)))
    edges_s = np.linspace(0, one.duration_s, num_bins + 1)
    counts, _ = np.histogram((arrivals_ns - one.start_ns) / 1e9, edges_s, weights=tokens)
    return edges_s, counts / (one.duration_s / num_bins)


def _ttft_ms(one: Round) -> Floats:
    found = [record.ttft_s for record in one.records if record.error is None]
    return np.array([value * 1e3 for value in found if value is not None])


def _itl_ms(one: Round) -> Floats:
    good = [record.gaps_s for record in one.records if record.error is None]
    gaps_s: Floats = np.concatenate([np.zeros(0), *good])
    return gaps_s * 1e3


def _shape(rounds: Sequence[Round]) -> str:
    prompts = [one.prompt_tokens_mean for one in rounds if one.prompt_tokens_mean is not None]
    outputs = [one.output_tokens_mean for one in rounds if one.output_tokens_mean is not None]
    if not outputs:
        return "no request succeeded"
    tokens_in = f"{np.mean(prompts):,.0f} tokens in, " if prompts else ""
    return f"{tokens_in}{np.mean(outputs):,.0f} out each, {_number(_mean_rate(rounds))} output tokens/s"


def _mean_rate(rounds: Sequence[Round]) -> float:
    return sum(one.output_tokens_per_s for one in rounds) / len(rounds)


def _legend(rounds: Sequence[Round]) -> list[str]:
    lines = []
    for number, one in enumerate(rounds):
        x = 24 + 170 * (number % 6)
        y = 52 + 16 * (number // 6)
        lines.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{COLORS[number % len(COLORS)]}"/>')
        failed = f", {sum(one.errors.values())} failed" if one.errors else ""
        lines.append(_text(x + 18, y + 11, f"round {number + 1}{failed}", size=12))
    return lines


def _number(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def opening(width: int, height: int, title: str) -> list[str]:
    """Returns the lines that begin a picture: the SVG element, and a card with the title on it."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="{FONT}" font-size="13" fill="{INK}">',
        f"<title>{html.escape(title)}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="12" fill="{CARD}" '
        'stroke="#cbd2d9"/>',
        _text(24, 34, title, weight=600, size=15),
    ]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    color: str = INK,
    weight: int = 400,
    size: int = 13,
    halo: bool = False,
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}"'
    content = html.escape(text)
    # Behind a label that may lie on a line. Not every renderer knows SVG's paint-order.
    behind = f'<text {place} fill="{CARD}" stroke="{CARD}" stroke-width="4">{content}</text>' if halo else ""
    return f'{behind}<text {place} fill="{color}">{content}</text>'
