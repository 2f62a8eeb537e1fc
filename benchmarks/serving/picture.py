"""Draws benchmarks/results/serving_cpu.json.

    python -m benchmarks.serving.picture [RESULTS.json] > docs/serving_cpu.svg

Above: CPU time of a token by stage at the most that one ingress kept up with. Below: the latency that the
service adds, at 10, 50 and 90% of that, one token a step.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parents[1] / "results/serving_cpu.json"
# Greys for the stages of a token, with the colour of a figure on them; colours for the services.
STAGES = {
    "engine": ("#4a5568", "#ffffff"),
    "ingress": ("#a0aec0", "#1f2933"),
    "proxy": ("#dfe5ec", "#1f2933"),
}
LINES = ("#2b6cb0", "#38a169", "#9b2c2c", "#dd6b20", "#805ad5", "#0987a0")
NAMES = {"handle": "Serve's streaming handle", "Ray LLM": "Ray Serve LLM", "floor": "bare uvicorn"}
WIDTH, LEFT, BARS = 1080, 260, 580
ROW, BAR, TOP = 30, 20, 92
CHART, GAP = 250, 80
MIN_LABEL = 34.0
QUANTILES = ("p50", "p99")


class Picture:
    """Lines of SVG."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def text(self, x: float, y: float, text: str, **style: object) -> None:
        """Writes."""
        self.lines.append(f'<text x="{x:.1f}" y="{y:.1f}"{_attributes(style)}>{escape(text)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, fill: str, title: str = "") -> None:
        """A box, with a title where there is one."""
        inner = f"<title>{escape(title)}</title>" if title else ""
        shape = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}"'
        self.lines.append(f'<rect {shape} fill="{fill}">{inner}</rect>')

    def line(self, points: list[tuple[float, float]], **style: object) -> None:
        """A polyline."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.lines.append(f'<polyline points="{path}" fill="none"{_attributes(style)}/>')

    def circle(self, x: float, y: float, fill: str, title: str) -> None:
        """A point of a line."""
        self.lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}"><title>{escape(title)}</title></circle>'
        )


def _attributes(style: dict[str, object]) -> str:
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())


def bars(picture: Picture, arms: list[dict[str, Any]]) -> float:
    """Draws a bar for each arm; returns where the next thing may begin."""
    totals = [arm["at_the_most"]["cpu_us_per_token_without_rest"] for arm in arms]
    scale = BARS / max(totals)
    colors = colors_of(arms)
    y = float(TOP)
    for arm, total in zip(arms, totals, strict=True):
        x = float(LEFT)
        picture.rect(24, y + 4, 12, 12, colors[arm["name"]])
        picture.text(42, y + 15, f"{shown(arm)}, {arm['tokens_per_step']:g}")
        for stage, (color, ink) in STAGES.items():
            us = arm["at_the_most"]["cpu_us_per_token"][stage]
            picture.rect(x, y, us * scale, BAR, color, f"{stage}: {us} µs")
            if us * scale >= MIN_LABEL:
                picture.text(x + us * scale / 2, y + 15, f"{us:.0f}", text_anchor="middle", fill=ink)
            x += us * scale
        picture.text(x + 8, y + 15, f"{total:.0f} µs", font_weight=600)
        most = arm["max_tokens_per_s"]
        picture.text(WIDTH - 24, y + 15, f"{most:,}", text_anchor="end")
        y += ROW
    x = float(LEFT)
    for stage, (color, _) in STAGES.items():
        picture.rect(x, y + 6, 12, 12, color)
        picture.text(x + 17, y + 17, stage, font_size=12)
        x += 90
    return y + 30


def colors_of(arms: list[dict[str, Any]]) -> dict[str, str]:
    """Returns the colour of each service by its name, the same in both parts."""
    return dict(zip(dict.fromkeys(arm["name"] for arm in arms), LINES, strict=False))


def shown(arm: dict[str, Any]) -> str:
    """Returns the name of a service as the text has it."""
    name: str = arm["name"]
    return NAMES.get(name, name)


def latencies(picture: Picture, arms: list[dict[str, Any]], top: float) -> float:
    """Draws a chart for each quantile side by side; returns where the next thing may begin."""
    width = (WIDTH - 48 - GAP) / 2 - 20
    colors = colors_of(arms)
    points = [point for arm in arms for point in arm["at_shares_of_it"].values()]
    most_x = max(point["tokens_per_s"] for point in points) * 1.05
    values = [point["added_latency_ms"][q] for point in points for q in QUANTILES]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    for number, quantile in enumerate(QUANTILES):
        left = 24 + 40 + number * (width + GAP)
        picture.text(left - 40, top, f"added latency of a token, {quantile}, ms", font_weight=600)

        def at(x: float, y: float, left: float = left) -> tuple[float, float]:
            height = (math.log10(max(y, 10**low)) - low) / (high - low)
            return left + x / most_x * width, top + 24 + CHART * (1 - height)

        for power in range(low, high + 1):
            picture.line([at(0, 10**power), at(most_x, 10**power)], stroke="#e2e8f0")
            picture.text(left - 8, at(0, 10**power)[1] + 4, f"{10.0**power:g}", text_anchor="end")
        step = 10 ** math.floor(math.log10(most_x))
        for tick in range(0, int(most_x) + 1, step if most_x / step > 3 else step // 2):
            picture.text(at(tick, 1)[0], top + 24 + CHART + 18, f"{tick:,}", text_anchor="middle")
        for arm in arms:
            color = colors[arm["name"]]
            line = [
                (point["tokens_per_s"], point["added_latency_ms"][quantile])
                for point in arm["at_shares_of_it"].values()
            ]
            picture.line([at(*point) for point in line], stroke=color, stroke_width=2)
            for x, y in line:
                picture.circle(*at(x, y), color, f"{shown(arm)}: {y} ms at {x:,} tokens/s")
    y = top + 24 + CHART + 42
    x = 24.0
    for arm in arms:
        picture.rect(x, y - 10, 12, 12, colors[arm["name"]])
        picture.text(x + 17, y, shown(arm), font_size=12)
        x += 40 + 7 * len(shown(arm))
    picture.text(WIDTH - 24, y, "tokens/s through one ingress", text_anchor="end", font_size=12)
    return y + 24


def draw(results: dict[str, Any]) -> str:
    """Returns the picture as SVG."""
    picture = Picture()
    picture.text(
        24,
        34,
        f"CPU time of a streamed token by stage, {results['machine']['model']}",
        font_weight=600,
        font_size=15,
    )
    picture.text(24, 72, "service, tokens a step", fill="#52606d")
    picture.text(LEFT, 72, "µs a token", fill="#52606d")
    picture.text(WIDTH - 24, 72, "most tokens/s of one ingress", fill="#52606d", text_anchor="end")
    bottom = bars(picture, results["arms"])
    one_token = [arm for arm in results["arms"] if arm["tokens_per_step"] == 1] or results["arms"]
    height = latencies(picture, one_token, bottom + 40)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" font-family="-apple-system, \'Segoe UI\', \'DejaVu Sans\', '
        'Helvetica, Arial, sans-serif" font-size="13" fill="#1f2933">',
        "<title>CPU time of a streamed token by stage, and the latency added to it, by service</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="12" fill="#fbfcfd" '
        'stroke="#cbd2d9"/>',
    ]
    return "\n".join([*head, *picture.lines, "</svg>"]) + "\n"


def main() -> None:
    """Writes the picture to standard output."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    sys.stdout.write(draw(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
