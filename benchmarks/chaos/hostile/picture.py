"""Ratios as a picture: for each kind, the time of ordinary clients beside hostile ones against alone. SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.chaos.hostile.figures import MAX_RATIO
from serve_app.bench.picture import _text as text
from serve_app.bench.picture import opening

WIDTH, LEFT, TOP, ROW, BAR = 900, 190, 84, 40, 15
# Two hostile colours: one client, and eight.
COLORS = {1: "#2b6cb0", 8: "#dd6b20"}
LINE, MOST = "#9b2c2c", 4.0


def draw(result: Mapping[str, Any]) -> str:
    """Returns the picture of a result as SVG."""
    kinds = list(dict.fromkeys(line["kind"] for line in result["kinds"]))
    height = TOP + ROW * len(kinds) + 50
    title = "Ordinary clients beside hostile ones: 95th percentile of the whole time, against alone"
    lines = opening(WIDTH, height, title)
    for number, (count, color) in enumerate(COLORS.items()):
        x = 24 + 190 * number
        lines.append(f'<rect x="{x}" y="46" width="12" height="12" fill="{color}"/>')
        lines.append(text(x + 18, 57, "one hostile client" if count == 1 else f"{count} at once", size=12))
    scale = (WIDTH - LEFT - 90) / MOST
    for line in result["kinds"]:
        row = TOP + ROW * kinds.index(line["kind"])
        top = row + BAR * (list(COLORS).index(line["hostile_clients"]))
        ratio = line["ratios"]["whole_ms"]["p95"]
        width = scale * min(ratio, MOST)
        color = COLORS[line["hostile_clients"]]
        lines.append(f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR - 2}" fill="{color}"/>')
        lines.append(text(LEFT + width + 6, top + 11, f"{ratio:.2f}", size=11))
    for index, kind in enumerate(kinds):
        lines.append(text(24, TOP + ROW * index + BAR + 4, kind, size=13))
    bottom = TOP + ROW * len(kinds)
    for ratio, color in ((1.0, "#4a5568"), (MAX_RATIO, LINE)):
        mark = LEFT + scale * ratio
        lines.append(f'<path d="M{mark:.1f} {TOP - 6}V{bottom}" stroke="{color}" stroke-dasharray="4 3"/>')
        lines.append(text(mark - 8, bottom + 16, f"{ratio:g}", size=11))
    return "\n".join([*lines, "</svg>"]) + "\n"
