"""`python -m serve_app.plan CONFIG`: what a config means, without a GPU and without a cluster.

Prints vLLM's arguments, the CUDA-graph sizes, Serve's options and the memory per GPU. Exits with 2, and one
line a problem on stderr, where the file is wrong; `--check` does only that. Exits with 1 where an engine
would not fit. What a start builds is built here too, as far as Ray and vLLM are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from serve_app.config import AppConfig, ConfigError, config_of, fast_paths, hard_stop, read_document
from serve_app.config.tree import IMPORT_PATH
from serve_app.plan.contents import H100_MEMORY_GIB, make_plan
from serve_app.plan.memory import GIB_BYTES
from serve_app.plan.text import render


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.plan", description="Shows what a config means."
    )
    parser.add_argument("config", help="a Serve config file, such as configs/prod.yaml")
    parser.add_argument(
        "--gpu-memory-gib",
        type=float,
        default=H100_MEMORY_GIB,
        help="memory of one GPU (default: %(default)s, what an 80 GB H100 reports)",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print the same as JSON")
    output.add_argument(
        "--check", action="store_true", help="only validate: print nothing when the file is good"
    )
    output.add_argument(
        "--drain-seconds",
        action="store_true",
        help="print how long replicas drain, which is the least for HAProxy's hard stop, and nothing else",
    )
    options = parser.parse_args(arguments)
    try:
        document = read_document(options.config)
        config = config_of(document, options.config)
        if options.drain_seconds:
            print(hard_stop.needed_s(config))
            return 0
        notes = _build(document, config, options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        return 0
    plan = make_plan(config, int(options.gpu_memory_gib * GIB_BYTES), ram_bytes())
    plan = {"file": options.config} | plan
    plan["notes"] = [*notes, *plan["notes"], *map(str, fast_paths.missing(config, os.environ))]
    print(json.dumps(plan, indent=2) if options.json else render(plan))
    return int(any(problem["level"] == "error" for problem in plan["problems"]))


def ram_bytes() -> int:
    """Returns the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _build(document: Any, config: AppConfig, file: str) -> list[str]:
    """Builds what a start does. Returns what could not be, for want of Ray or vLLM; raises `ConfigError`."""
    # Both greet at import, which has no place in this program's output.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from serve_app import serve_file
            from serve_app.app import checked_application
    except ImportError:
        return ["Ray is not installed here, so only args are checked"]
    problems = serve_file.problems(document, IMPORT_PATH, config)
    try:
        if config.engine.engine_overrides:
            import serve_app.vllm_adapter  # noqa: F401
    except ImportError:
        notes = ["vLLM is not installed here, so engine.engine_overrides is not checked"]
        config = config.model_copy(
            update={"engine": config.engine.model_copy(update={"engine_overrides": {}})}
        )
    try:
        checked_application(config)
    except ConfigError as error:
        problems += str(error).splitlines()
    except (ValueError, TypeError) as error:  # of Serve's options
        problems += [f"args: Serve refuses what follows from them: {' '.join(str(error).split())}"]
    if problems:
        raise ConfigError("\n".join(f"{file}: {problem}" for problem in problems))
    return notes


if __name__ == "__main__":
    sys.exit(main())
