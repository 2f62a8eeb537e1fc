"""Draws benchmarks/results/bare_node.json: `python benchmarks/bare_node_picture.py > docs/bare_node.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results/bare_node.json"
# In the order in which they happen. The rest: before the replica's process, and what no phase covers.
PHASES = {
    "staging": "#2f855a",
    "cache restore": "#38a169",
    "imports": "#90cdf4",
    "processes": "#4299e1",
    "weights": "#2b6cb0",
    "compile": "#f6ad55",
    "profile": "#ed8936",
    "capture": "#dd6b20",
    "kernels": "#c05621",
    "warm-up": "#9b2c2c",
    "rest": "#cbd2d9",
}
WIDTH, LEFT, SCALE = 1080, 150, 3.4
ROW, BAR, TOP = 70, 34, 70
MIN_LABEL_S = 7.0


def seconds_of(start: dict[str, Any]) -> dict[str, float]:
    """Seconds of each phase, the rest included."""
    phases: dict[str, float] = start["replicas"][0]["phases_s"]
    return {name: phases.get(name, 0.0) for name in PHASES} | {
        "rest": start["ready_s"] - sum(phases.values())
    }


def draw(results: dict[str, Any]) -> str:
    """Returns the picture as SVG."""
    names = ["bare node,\nno caches", "bare node,\ncaches from S3"]
    height = TOP + ROW * len(names) + 70
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-family="-apple-system, \'Segoe UI\', \'DejaVu Sans\', Helvetica, '
        'Arial, sans-serif" font-size="13" fill="#1f2933">',
        "<title>Seconds from serve run to ready, by phase, without and with staged compile caches</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="12" fill="#fbfcfd" '
        'stroke="#cbd2d9"/>',
        f'<text x="24" y="34" font-weight="600" font-size="15">From `serve run` to ready: gpt-oss-20b with '
        f"speculator, {results['machine']['gpu'].split(',')[0]}, seconds</text>",
    ]
    for row, (name, start) in enumerate(zip(names, results["starts"], strict=True)):
        y, x = TOP + ROW * row, float(LEFT)
        for number, part in enumerate(name.split("\n")):
            lines.append(f'<text x="24" y="{y + 15 + 16 * number}">{part}</text>')
        for phase, seconds in seconds_of(start).items():
            width = seconds * SCALE
            lines.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{PHASES[phase]}">'
                f"<title>{phase}: {seconds:.1f} s</title></rect>"
            )
            if seconds >= MIN_LABEL_S:
                color = "#1f2933" if phase in ("imports", "rest", "compile") else "#ffffff"
                lines.append(
                    f'<text x="{x + width / 2:.1f}" y="{y + 22}" text-anchor="middle" fill="{color}">'
                    f"{seconds:.0f}</text>"
                )
            x += width
        lines.append(f'<text x="{x + 10:.1f}" y="{y + 22}" font-weight="600">{start["ready_s"]:.0f} s</text>')
    x, y = LEFT, TOP + ROW * len(names) + 14
    for phase, color in PHASES.items():
        lines.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{color}"/>')
        lines.append(f'<text x="{x + 17}" y="{y + 11}" font-size="12">{phase}</text>')
        x += 30 + 7 * len(phase)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the picture to standard output."""
    sys.stdout.write(draw(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
