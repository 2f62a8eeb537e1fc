"""A plan as text for people: aligned, at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.plan.memory import GIB_BYTES

WIDTH = 100
INDENT = "  "
LABEL_WIDTH = 34
CELL_WIDTH = 18

_GIB_ROWS = (
    ("total", "total_bytes"),
    ("may be used", "budget_bytes"),
    ("weights", "weights_bytes"),
    ("speculator", "speculator_bytes"),
    ("runtime (estimate)", "runtime_bytes"),
    ("CUDA graphs (estimate)", "graphs_bytes"),
    ("activations (estimate)", "activations_bytes"),
    ("KV cache", "kv_cache_bytes"),
)
_FITS = {None: "yes", "warning": "fewer", "error": "no"}


def render(plan: Mapping[str, Any]) -> str:
    """Returns the text of a plan that `contents.make_plan` made, with its file name added."""
    model, speculator = plan["model"], plan["speculator"]
    served = {"model": _checkpoint(model), "speculator": _checkpoint(speculator) if speculator else "none"}
    lines = _section(f"{plan['file']}: {model['id']}", served | {"served as": model["served_names"]})
    arguments = dict(plan["engine_arguments"])
    lines += _section("vLLM arguments (AsyncEngineArgs)", arguments)
    if plan["environment"]:
        lines += _section("Environment of the engines", plan["environment"])
    sizes = plan["capture_sizes"]
    graphs = ", ".join(map(str, sizes)) if sizes else "none: eager mode"
    lines += [f"CUDA-graph sizes, in tokens: {len(sizes)}", *_wrapped(graphs, INDENT, INDENT), ""]
    lines += _section("Serve options of the engine deployment", plan["engine_options"])
    lines += _section("Serve options of the ingress deployment", plan["ingress_options"])
    lines += _memory_table(plan)
    for problem in plan["problems"]:
        lines += _wrapped(problem["text"], f"{problem['level'].upper()}: ", INDENT)
    for note in plan["notes"]:
        lines += _wrapped(note, "NOTE: ", INDENT)
    return "\n".join(lines).rstrip()


def _checkpoint(checkpoint: Mapping[str, Any]) -> str:
    revision = f" at revision {checkpoint['revision']}" if checkpoint["revision"] else ""
    drafts = f", {checkpoint['num_draft_tokens']} draft tokens" if "num_draft_tokens" in checkpoint else ""
    return f"{checkpoint['source']}{revision}{drafts}"


def _section(title: str, values: Mapping[str, Any]) -> list[str]:
    rows = list(_flat(values))
    width = max(len(name) for name, _ in rows)
    lines = [title]
    for name, text in rows:
        lines += _wrapped(text, f"{INDENT}{name:<{width}}  ", " " * (len(INDENT) + width + 2))
    return [*lines, ""]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            rows.append((prefix + name, ", ".join(map(str, value))))
        else:
            rows.append((prefix + name, str(value)))
    return rows


def _memory_table(plan: Mapping[str, Any]) -> list[str]:
    columns = plan["memory"]
    length = plan["max_model_len"]
    names = [f"{'* ' if column['is_configured'] else ''}{column['name']}" for column in columns]
    lines = [
        "Memory of one engine replica",
        _row("GiB", names),
        _row("device", [c["device"] for c in columns]),
    ]
    for label, key in _GIB_ROWS:
        lines.append(_row(label, [f"{column[key] / GIB_BYTES:.1f}" for column in columns]))
    lines.append(_row("KV cache, KiB a token", [f"{c['kv_bytes_per_token'] / 1024:.2f}" for c in columns]))
    lines.append(
        _row(f"MiB a request of {length:,}", [f"{c['kv_bytes_per_request'] / 2**20:.0f}" for c in columns])
    )
    lines.append(_row("KV tokens, as vLLM logs them", [f"{c['kv_tokens']:,}" for c in columns]))
    fitting = [f"{c['requests_at_max_model_len']:.1f}" for c in columns]
    lines.append(_row(f"requests of {length:,} that fit", fitting))
    levels = [next((p["level"] for p in column["problems"]), None) for column in columns]
    lines.append(_row("fits", [_FITS[level] for level in levels]))
    lines.append(_row("max_concurrent_requests", [str(plan["max_concurrent_requests"])] * len(columns)))
    if any(column["is_configured"] for column in columns):
        lines.append(f"{INDENT}* the model of this config; the others with the same settings")
    return [*lines, ""]


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{INDENT}{label:<{LABEL_WIDTH}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]
