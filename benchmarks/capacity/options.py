"""The command line of `benchmarks.capacity.gpu`, and what its engines are told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from serve_app.demo import CACHE, MODEL_NAME, SPECULATOR_NAME

# Of `traffic.KINDS`, which this process does not import: it would load vLLM.
KINDS = [
    *("plain", "plain, sampled", "sampled", "sampled, seed", "penalties", "JSON schema", "choice"),
    *("logprobs", "many logprobs"),
]
# Of prompts: mostly short, some longer than a step.
LENGTHS = [17, 100, 250, 600] * 3 + [1500, 1500, 3500, 9001]
# The engines of each part.
PARTS = {"warm": ("cold", "full"), "graphs": ("full", "naive")}
DEMO = {
    "concurrent": 4,
    "max_model_len": 2048,
    "requests": 12,
    "lengths": [16, 300],
    "output_tokens": 16,
    "decode_tokens": 24,
    "kv_cache_gib": 0.125,
    "memory_share": 0.1,
    "num_gpus": 0.0,
    "decode_concurrency": [4, 2],
}


def spec(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the process of the engine `name` is told."""
    speculator = None
    if options.speculator:
        speculator = {"source": f"file:{options.speculator}", "num_draft_tokens": options.draft_tokens}
    engine = {
        "max_concurrent_requests": options.concurrent,
        "max_model_len": options.max_model_len,
        "gpu_memory_utilization": options.memory_share,
        "kv_cache_memory_bytes": int(options.kv_cache_gib * 2**30),
        "num_gpus": options.num_gpus,
        "accelerator_type": None,
        "warm_up": name == "full",
        "engine_overrides": {"jit_monitor_verbose": True},
    }
    made: dict[str, Any] = {
        "name": name,
        "folder": str(folder),
        "config": {
            "model": {"id": "openai/gpt-oss-20b", "source": f"file:{options.model}"},
            "speculator": speculator,
            "engine": engine,
        },
    }
    if name == "naive" and options.num_gpus:
        sizes = {1, 2, 4, *range(8, options.concurrent, 8), options.concurrent}
        made["capture_sizes"] = sorted(size for size in sizes if size <= options.concurrent)
    return made


def parser(description: str) -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", type=Path, help="checkpoint folder")
    made.add_argument("--speculator", type=Path, help="speculator folder; without it: no speculator")
    made.add_argument("--demo", action="store_true", help="the demo checkpoint on the CPU, small loads")
    made.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    made.add_argument(
        "--engines",
        nargs="+",
        choices=["full", "cold", "naive"],
        help="only these; default: all of the parts",
    )
    made.add_argument("--concurrent", type=int, default=64, help="max_concurrent_requests of each engine")
    made.add_argument("--draft-tokens", type=int, default=3)
    made.add_argument("--max-model-len", type=int, default=16384)
    made.add_argument("--memory-share", type=float, default=0.25, help="of the GPU, for each engine")
    made.add_argument("--kv-cache-gib", type=float, default=8, help="of each engine")
    made.add_argument("--num-gpus", type=float, default=1, help="0: CPUs")
    made.add_argument("--requests", type=int, default=500, help="of each phase of the part `warm`")
    made.add_argument("--concurrency", type=int, default=32, help="requests at a time in that part")
    made.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="of prompts, drawn evenly")
    made.add_argument("--output-tokens", type=int, default=64)
    made.add_argument("--decode-concurrency", type=int, nargs="+", default=[64, 16])
    made.add_argument("--decode-tokens", type=int, default=1024, help="of each answer in the part `graphs`")
    made.add_argument("--rounds", type=int, default=2, help="of the part `graphs`")
    made.add_argument(
        "--warm-up-tokens", type=int, default=0, help="of a round before these, with short answers; 0: none"
    )
    made.add_argument("--ready-s", type=float, default=420, help="wait so long for the engines")
    made.add_argument("--seconds", type=float, default=540, help="of everything")
    made.add_argument("--reserve-s", type=float, default=10, help="begin nothing in the last seconds")
    made.add_argument(
        "--folder", type=Path, help="logs and caches; a second run finds them warm; default: a temporary one"
    )
    made.add_argument("--out", type=Path, required=True, help="a file that is there gets another run")
    return made


def parse(description: str) -> argparse.Namespace:
    """Returns the options, with `--demo` filled in. Ends the program where there is no model."""
    made = parser(description)
    options = made.parse_args()
    if options.demo:
        options.model, options.speculator = CACHE / MODEL_NAME, CACHE / SPECULATOR_NAME
        vars(options).update(DEMO)
    if not options.model:
        made.error("give --model or --demo")
    return options
