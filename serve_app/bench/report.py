"""A result as text: a column for each round, then the distributions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from serve_app.bench.result import Result, Round
from serve_app.bench.statistics import Distribution

# Messages of services can be long; so much of one is shown.
_MESSAGE_CHARS = 160
Row = tuple[str, ...]


def render(result: Result) -> str:
    """Returns the text for a person."""
    rounds = result.rounds
    parts = [_heading(result), _table(_scalars(rounds)), _table(_distributions(rounds))]
    if result.ceiling:
        parts.append(
            f"A worker can take {result.ceiling.chunks_per_cpu_s:,.0f} chunks/s on a core of its own "
            f"({result.ceiling.cpu_us_per_chunk:.1f} us each); {result.processes} at work."
        )
    parts += ["\n".join(notes)] if (notes := _notes(rounds)) else []
    return "\n\n".join(parts)


def _heading(result: Result) -> str:
    load = result.load
    how = f"{load.concurrency} at a time" if load.concurrency else f"{load.rate:g} requests/s, Poisson"
    most = "" if load.exact_output else "up to "
    shape = f"{load.input_tokens} words in, {most}{load.output_tokens} tokens out"
    return f"{load.url}, {result.model}: {how}, {'own prompts' if load.bodies else shape}"


def _scalars(rounds: Sequence[Round]) -> list[Row]:
    counted_by = " and ".join(dict.fromkeys(one.tokens_from for one in rounds if one.tokens_from)) or "none"
    rows = [
        ("", *(f"round {number}" for number, _ in enumerate(rounds, 1)), *(["spread"] * (len(rounds) > 1))),
        _row("requests", "{:,}", [one.num_requests for one in rounds]),
        _row("failed", "{:,}", [sum(one.errors.values()) for one in rounds]),
        _row("duration, s", "{:.2f}", [one.duration_s for one in rounds]),
        _row("requests/s", "{:.2f}", [one.requests_per_s for one in rounds]),
        _row(f"output tokens/s ({counted_by})", "{:,.1f}", [one.output_tokens_per_s for one in rounds]),
        _row("  while all are open", "{:,.1f}", [one.output_tokens_per_s_at_full_load for one in rounds]),
        _row("input tokens each", "{:,.1f}", [one.prompt_tokens_mean for one in rounds]),
        _row("output tokens each", "{:,.1f}", [one.output_tokens_mean for one in rounds]),
        _row("tokens a chunk", "{:.2f}", [one.tokens_per_chunk for one in rounds]),
    ]
    if any(one.goodput for one in rounds):
        good = [one.goodput for one in rounds]
        rates = [one.requests_per_s if one else None for one in good]
        rows.append(_row("goodput, requests/s", "{:.2f}", rates))
        rows.append(_row("goodput, share", "{:.1%}", [one.share if one else None for one in good]))
    generators = [one.generator for one in rounds]
    busiest = [max(one.cpu_shares, default=None) for one in generators]
    rows.append(_row("generator: CPU of the busiest worker", "{:.0%}", busiest))
    return rows


def _row(name: str, form: str, values: Sequence[float | None]) -> Row:
    cells = ["-" if value is None else form.format(value) for value in values]
    known = [value for value in values if value is not None]
    if len(values) > 1:
        # Half of what lies between the extremes, of the mean.
        mean = sum(known) / len(known) if known else 0
        cells.append(f"±{(max(known) - min(known)) / 2 / mean:.0%}" if mean else "-")
    return (name, *cells)


def _distributions(rounds: Sequence[Round]) -> list[Row]:
    return [
        ("", "", "mean", "p50", "p90", "p99", "max"),
        *_lines("TTFT, ms", (one.ttft_s for one in rounds)),
        *_lines("ITL, ms", (one.itl_s for one in rounds)),
        *_lines("TPOT, ms", (one.tpot_s for one in rounds)),
        *_lines("end to end, ms", (one.e2e_s for one in rounds)),
        *_lines("generator: sent after due, ms", (one.generator.send_delay_s for one in rounds)),
        *_lines("generator: loop lag, ms", (one.generator.loop_lag_s for one in rounds)),
    ]


def _lines(name: str, distributions: Iterable[Distribution | None]) -> list[Row]:
    rows: list[Row] = []
    for number, one in enumerate(distributions, 1):
        values = (one.mean, one.p50, one.p90, one.p99, one.max) if one else ()
        cells = [f"{value * 1e3:,.2f}" for value in values] or ["-"] * 5
        rows.append((name if number == 1 else "", f"round {number}", *cells))
    return rows


def _table(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{name:{widths[0]}}", *padded]).rstrip())
    return "\n".join(lines)


def _notes(rounds: Sequence[Round]) -> list[str]:
    lines = []
    for number, one in enumerate(rounds, 1):
        lines += [f"round {number}: warning: {text}" for text in one.warnings]
        for kind, count in one.errors.items():
            message = one.error_messages[kind][:_MESSAGE_CHARS]
            lines.append(f"round {number}: {count} times {kind}" + (f": {message}" if message else ""))
    return lines
