"""Draws the three deployments and what of Ray Serve stands around them.

    python docs/draw_architecture.py > docs/architecture.svg

A box with `data-deployment` is a deployment that `serve_app.app:build` binds, which tests/unit/test_docs.py
compares.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1080, 478
INK, DATA, CONTROL, NOTE = "#1f2933", "#334e68", "#829ab1", "#52606d"
FONT = "-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
LINE_HEIGHT = 18
# How far each further replica stands behind the first.
REPLICA_OFFSET = 8


@dataclass(frozen=True)
class Box:
    """A process, or several of a kind, with its heading and what it does; `---` draws a line."""

    x: int
    y: int
    width: int
    height: int
    heading: str
    lines: tuple[str, ...]
    edge: str
    surface: str
    # The name that `build` gives it; none for what is not this project's.
    deployment: str | None = None
    # Below the heading.
    kind: str | None = None
    # Surfaces of the replicas behind the first.
    replicas: tuple[str, ...] = ()
    is_centred: bool = True

    def draw(self) -> list[str]:
        """Returns SVG, the rearmost replica first."""
        shapes = [
            self._rect(REPLICA_OFFSET * (number + 1), surface) for number, surface in enumerate(self.replicas)
        ]
        middle = self.x + self.width / 2
        parts = [*reversed(shapes), self._rect(0, self.surface)]
        parts.append(text(middle, self.y + 28, self.heading, anchor="middle", size=14, weight=600))
        y = self.y + 28
        if self.kind:
            y += 17
            parts.append(text(middle, y, self.kind, anchor="middle", size=12, fill=NOTE))
        y += 4
        for line in self.lines:
            if line == "---":
                y += 10
                ends = f'x1="{self.x + 16}" y1="{y}" x2="{self.x + self.width - 16}" y2="{y}"'
                parts.append(f'<line {ends} stroke="{self.edge}" stroke-opacity="0.5"/>')
                y += 4
                continue
            y += LINE_HEIGHT
            x, anchor = (middle, "middle") if self.is_centred else (self.x + 16, "start")
            parts.append(text(x, y, line, anchor=anchor))
        name = f' data-deployment="{self.deployment}"' if self.deployment else ""
        return [f"<g{name}>", *parts, "</g>"]

    def _rect(self, offset: int, surface: str) -> str:
        place = f'x="{self.x + offset}" y="{self.y + offset}" width="{self.width}" height="{self.height}"'
        return f'<rect {place} rx="8" fill="{surface}" stroke="{self.edge}"/>'


BOXES = (
    Box(24, 118, 116, 96, "Client", ("OpenAI's SDK,", "Anthropic's, curl"), "#7b8794", "#ffffff"),
    Box(212, 118, 132, 96, "Serve's proxy", ("HAProxy on", "GPU machines"), "#7b8794", "#ffffff"),
    Box(
        416,
        30,
        208,
        262,
        "Ingress",
        (
            "check the request",
            "---",
            "ask the gate for slots",
            "---",
            "render harmony",
            "---",
            "EngineRouter: each call to",
            "the replica the gate named",
            "---",
            "read tokens as items,",
            "write the API's events",
        ),
        "#3f7cb5",
        "#f0f6fc",
        deployment="Ingress",
        kind="replicas on CPU cores",
        replicas=("#e6f0fa", "#d9e8f6"),
        is_centred=False,
    ),
    Box(
        704,
        228,
        120,
        100,
        "Gate",
        ("the queue, and", "all engine slots"),
        "#c29a4b",
        "#fdf6e9",
        deployment="Gate",
        kind="one replica",
    ),
    Box(
        840,
        30,
        200,
        262,
        "Engine",
        ("vLLM AsyncLLM", "(no detokenising)"),
        "#2f8f57",
        "#eef9f2",
        deployment="Engine",
        kind="one replica a GPU",
        replicas=("#e3f5ea", "#d5eede"),
    ),
    Box(
        856,
        140,
        168,
        108,
        "EngineCore",
        ("vLLM's process:", "gpt-oss, KV cache,", "EAGLE3 speculator"),
        "#79b892",
        "#ffffff",
    ),
    Box(
        212,
        382,
        844,
        80,
        "Serve's controller",
        (
            "starts, checks and replaces the replicas of all three deployments; scales the engines by their",
            "ongoing requests; tells proxies and routers which replicas there are",
        ),
        "#a89f8c",
        "#f5f3ee",
    ),
)
# From, to, and whether the arrow has a tip at its beginning too.
DATA_ARROWS = (
    ((142, 154), (210, 154), False),
    ((210, 180), (142, 180), False),
    ((346, 154), (414, 154), False),
    ((414, 180), (346, 180), False),
    ((642, 110), (838, 110), False),
    ((838, 150), (642, 150), False),
    ((642, 280), (702, 280), True),
)
CONTROL_ARROWS = (
    ((278, 380), (278, 217), False),
    ((524, 380), (524, 311), True),
    ((764, 380), (764, 331), True),
    ((940, 380), (940, 311), True),
)
DATA_NOTES = (
    (176, 144, "HTTP"),
    (176, 198, "events"),
    (380, 144, "HTTP"),
    (380, 198, "events"),
    (740, 84, "one Serve call a sequence:"),
    (740, 101, "token ids"),
    (740, 168, "one frame a step:"),
    (740, 185, "token ids, logprobs"),
    (672, 270, "ZeroMQ"),
)
CONTROL_NOTES = (
    (288, 300, "ingress addresses"),
    (534, 350, "health, ready engines"),
    (774, 360, "health"),
    (950, 350, "health, load"),
)


def text(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: int = 400,
    fill: str = INK,
) -> str:
    """Returns a line of text as SVG."""
    style = f'text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{fill}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(content)}</text>'


def arrow(
    start: tuple[int, int], end: tuple[int, int], *, is_double: bool, color: str, tip: str, dashes: str = ""
) -> str:
    """Returns an arrow as SVG."""
    ends = f'x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}"'
    tips = f'marker-end="url(#{tip})"' + (f' marker-start="url(#{tip})"' if is_double else "")
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line {ends} stroke="{color}" stroke-width="1.5" {tips}{dashed}/>'


def marker(name: str, color: str) -> str:
    """Returns the tip of an arrow as SVG."""
    size = 'viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
    return (
        f'<marker id="{name}" {size} orient="auto-start-reverse">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{color}"/></marker>'
    )


def draw() -> str:
    """Returns the picture as SVG."""
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    named = ", ".join(box.heading for box in BOXES)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">',
        f"<title>Architecture: {escape(named)}</title>",
        f"<defs>{marker('tip', DATA)}{marker('tip-control', CONTROL)}</defs>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12" fill="#fbfcfd" '
        'stroke="#cbd2d9"/>',
    ]
    for box in BOXES:
        lines += box.draw()
    for start, end, is_double in DATA_ARROWS:
        lines.append(arrow(start, end, is_double=is_double, color=DATA, tip="tip"))
    for start, end, is_double in CONTROL_ARROWS:
        lines.append(arrow(start, end, is_double=is_double, color=CONTROL, tip="tip-control", dashes="5 4"))
    lines += [text(x, y, note, anchor="middle", size=12, fill=DATA) for x, y, note in DATA_NOTES]
    lines += [text(x, y, note, size=12, fill=NOTE) for x, y, note in CONTROL_NOTES]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(draw())
