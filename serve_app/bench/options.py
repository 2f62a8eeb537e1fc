"""The command line: options in, a load out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app.bench.load import DEFAULT_DURATION_S, BenchError, Load, Slo

_UNITS_S = {"ms": 1e-3, "s": 1.0, "": 1.0}


def parser() -> argparse.ArgumentParser:
    """The options; each default is the one of `Load`."""
    made = argparse.ArgumentParser(
        prog="python -m serve_app.bench",
        description="Puts load on an OpenAI-compatible service and measures its answers. A key is taken from "
        "the environment's OPENAI_API_KEY.",
    )
    made.add_argument("url", help="the service, such as http://127.0.0.1:8000")
    made.add_argument("--model", help="default: the first that the service lists")
    made.add_argument("--api", choices=("chat", "completions"), default="chat")
    made.add_argument("--no-stream", action="store_true", help="ask for answers in one piece")
    loop = made.add_argument_group("load").add_mutually_exclusive_group(required=True)
    loop.add_argument("--concurrency", type=int, help="closed loop: so many requests are always open")
    loop.add_argument("--rate", type=float, help="open loop: requests a second, Poisson, sent when due")
    size = made.add_argument_group("size")
    size.add_argument("--requests", type=int, help="of a round")
    size.add_argument(
        "--duration", type=float, help=f"seconds in which requests are sent (default: {DEFAULT_DURATION_S:g})"
    )
    size.add_argument("--rounds", type=int, default=1)
    size.add_argument("--warm-up", type=int, default=0, help="requests before the first round")
    size.add_argument("--processes", type=int, help="workers (default: one for four cores)")
    size.add_argument("--timeout", type=float, default=Load.timeout_s, help="seconds of one request")
    shape = made.add_argument_group("shape of a request")
    shape.add_argument("--input-tokens", type=int, default=Load.input_tokens, help="words, one token each")
    shape.add_argument("--output-tokens", type=int, default=Load.output_tokens)
    shape.add_argument(
        "--exact-output",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="send vLLM's ignore_eos and min_tokens, so that no answer is shorter",
    )
    shape.add_argument("--seed", type=int, help="of prompts and arrivals (default: another every round)")
    shape.add_argument("--prompt-file", type=Path, help="JSON lines: fragments of bodies, taken in turn")
    shape.add_argument("--extra-body", type=_json_object, default={}, help="JSON merged into every body")
    out = made.add_argument_group("result")
    out.add_argument("--slo", type=slo, default=Slo(), help="such as ttft=500ms,tpot=20ms,e2e=10s")
    out.add_argument("--json", type=Path, help="write all figures to this file")
    out.add_argument("--picture", type=Path, help="write distributions and throughput to this SVG")
    out.add_argument("--trace", type=Path, help="write every request's arrivals to this file, as JSON lines")
    out.add_argument(
        "--ceiling",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure first what the generator itself can take",
    )
    return made


def load_of(options: argparse.Namespace) -> Load:
    """Returns the load that the options ask for. Raises `BenchError` where they do not fit together."""
    return Load(
        url=options.url,
        model=options.model,
        api=options.api,
        stream=not options.no_stream,
        concurrency=options.concurrency,
        rate=options.rate,
        requests=options.requests,
        duration_s=options.duration,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        exact_output=options.exact_output,
        bodies=_bodies(options.prompt_file) if options.prompt_file else (),
        extra_body=options.extra_body,
        seed=options.seed,
        rounds=options.rounds,
        warm_up=options.warm_up,
        processes=options.processes,
        timeout_s=options.timeout,
        slo=options.slo,
        ceiling=options.ceiling,
        trace=options.trace,
    )


def slo(text: str) -> Slo:
    """Returns the demands in `text`: names with durations in s or ms. Raises argparse's error."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        number = value.rstrip("ms")
        try:
            limits[f"{name}_s"] = float(number) * _UNITS_S[value.removeprefix(number)]
            Slo(**limits)
        except (ValueError, KeyError, TypeError):
            raise argparse.ArgumentTypeError(
                f"{part!r}: write ttft, tpot or e2e, =, and a duration such as 500ms or 2s"
            ) from None
    return Slo(**limits)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def _bodies(path: Path) -> tuple[Mapping[str, Any], ...]:
    fragments = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise BenchError(f"the prompts cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                fragments.append(_json_object(line))
            except argparse.ArgumentTypeError as error:
                raise BenchError(f"{path}, line {number}: {error}") from None
    if not fragments:
        raise BenchError(f"{path} holds no prompts")
    return tuple(fragments)
