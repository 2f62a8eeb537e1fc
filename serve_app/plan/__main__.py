"""`python -m serve_app.plan CONFIG`: what a config means, without a GPU and without Ray.

Prints vLLM's arguments, the CUDA-graph sizes, Serve's options and the memory per GPU. Exits with 2, and one
message on stderr, where the file is wrong; `--check` does only that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from serve_app.config import AppConfig, ConfigError, check_overrides, fast_paths, read_config
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
    options = parser.parse_args(arguments)
    try:
        config = read_config(options.config)
        notes = _check_override_names(config, options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        return 0
    plan = make_plan(config, int(options.gpu_memory_gib * GIB_BYTES), ram_bytes())
    plan = {"file": options.config} | plan
    plan["notes"] = [*notes, *plan["notes"], *map(str, fast_paths.missing(config, os.environ))]
    print(json.dumps(plan, indent=2) if options.json else render(plan))
    return 0


def ram_bytes() -> int:
    """Returns the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_override_names(config: AppConfig, file: str) -> list[str]:
    if not config.engine.engine_overrides:
        return []
    # vLLM greets at import, which has no place in this program's output.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from serve_app.vllm_adapter import argument_names
    except ImportError:
        return ["vLLM is not installed here, so the names in engine.engine_overrides are not checked"]
    try:
        check_overrides(config, argument_names())
    except ConfigError as error:
        raise ConfigError("\n".join(f"{file}: {line}" for line in str(error).splitlines())) from None
    return []


if __name__ == "__main__":
    sys.exit(main())
