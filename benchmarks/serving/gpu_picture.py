"""Draws benchmarks/results/serving_gpu.json.

    python -m benchmarks.serving.gpu_picture [RESULTS.json] > docs/serving_gpu.svg

For each load, one bar a service and round: tokens a second, and time to first token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving.picture import Picture

RESULTS = Path(__file__).parents[1] / "results/serving_gpu.json"
NAMES = {"serve_app": "this service", "vllm": "vllm serve", "ray": "Ray Serve LLM"}
# Of each service: the first round, in which kernels were still being compiled, and the second.
COLORS = {"serve_app": ("#90cdf4", "#2b6cb0"), "vllm": ("#fbd38d", "#dd6b20"), "ray": ("#c6f6d5", "#38a169")}
WIDTH, LEFT, BARS, GAP = 1080, 190, 330, 120
BAR, TOP = 15, 92


def draw(results: dict[str, Any]) -> str:
    """Returns the picture as SVG."""
    picture = Picture()
    gpu = results["machine"]["gpu"].partition(",")[0]
    title = f"gpt-oss-20b with EAGLE3 drafts on one {gpu}: one run, two rounds of each load"
    picture.text(24, 34, title, font_weight=600, font_size=15)
    picture.text(24, 72, "tokens in / out, open", fill="#52606d")
    # As in the text: long answers first, then from many open requests to one.
    points = sorted(
        results["points"],
        key=lambda point: (point["output_tokens"], point["input_tokens"], point["concurrency"]),
        reverse=True,
    )
    columns = (("tokens a second", _tokens, LEFT), ("time to first token, p50, ms", _ttft, LEFT + BARS + GAP))
    y = float(TOP)
    for heading, value, left in columns:
        picture.text(left, 72, heading, fill="#52606d")
        most = max(value(one) for point in points for one in _rounds(point))
        y = float(TOP)
        for point in points:
            if left == LEFT:
                label = f"{point['input_tokens']:,} / {point['output_tokens']:,}, {point['concurrency']}"
                picture.text(24, y + 20, label)
            for name in filter(point["systems"].get, NAMES):
                rounds = point["systems"][name]
                for number, (one, color) in enumerate(zip(rounds, COLORS[name], strict=True), 1):
                    width = value(one) / most * BARS
                    about = f"{NAMES[name]}, round {number}"
                    picture.rect(left, y, width, BAR - 2, color, about)
                    picture.text(left + width + 6, y + 11, f"{value(one):,.0f}", font_size=11)
                    y += BAR
            y += 14
    x = float(LEFT)
    for name in NAMES:
        if not any(name in point["systems"] for point in points):
            continue
        for number, color in enumerate(COLORS[name], 1):
            picture.rect(x, y + 6, 12, 12, color)
            picture.text(x + 17, y + 17, f"{NAMES[name]}, round {number}", font_size=12)
            x += 160
    height = y + 40
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" font-family="-apple-system, \'Segoe UI\', \'DejaVu Sans\', '
        'Helvetica, Arial, sans-serif" font-size="13" fill="#1f2933">',
        "<title>Tokens a second and time to first token, by load and service</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="12" fill="#fbfcfd" '
        'stroke="#cbd2d9"/>',
    ]
    return "\n".join([*head, *picture.lines, "</svg>"]) + "\n"


def _rounds(point: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for rounds in point["systems"].values() for one in rounds]


def _tokens(one: dict[str, Any]) -> float:
    return float(one["output_tokens_per_s"])


def _ttft(one: dict[str, Any]) -> float:
    return float(one["ttft_s"]["p50"]) * 1000


def main() -> None:
    """Writes the picture to standard output."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    sys.stdout.write(draw(json.loads(path.read_text())))


if __name__ == "__main__":
    main()
