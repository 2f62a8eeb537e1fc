"""What compiled code depends on, as one key: caches are used only where all of it is the same.

The caches inside (vLLM's, Inductor's, Triton's) have keys of their own and check them. This one decides which
archive is worth fetching, so too fine a key costs a cold start, and too coarse a one a useless download.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Raised when archives of an older release must not be used any more.
FORMAT = 1

# vLLM's engine arguments that no compiled code depends on, and why. All others count, unknown ones too. vLLM
# leaves these out of its own hashes for torch.compile as well (`compute_hash` of its configs).
IRRELEVANT_ARGUMENTS = {
    "served_model_name": "a name in answers",
    "disable_log_stats": "what is logged",
    "generation_config": "defaults of requests",
    "seed": "an input",
    "reasoning_parser": "text, and when structured output begins",
    "tokenizer_revision": "text",
    "gpu_memory_utilization": "the number of KV-cache blocks, an input",
    "kv_cache_memory_bytes": "the number of KV-cache blocks, an input",
    "enable_prefix_caching": "what the scheduler schedules",
    "load_format": "how weights come into memory",
    "model_loader_extra_config": "how weights come into memory",
}

# Of the flags in /proc/cpuinfo, what compilers emit code for. The others change with the kernel.
_INSTRUCTION_SET = re.compile(r"(avx|amx|s?sse|fma|f16c|bmi|gfni|vaes|vpclmul|sha_|adx|movbe|popcnt)")


def key_of(factors: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of `factors`, whatever the order of their names."""
    text = json.dumps(factors, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def factors_of(arguments: Mapping[str, Any], compiler: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns everything that compiled code depends on.

    Args:
        arguments: vLLM's engine arguments. The folders of model and speculator are in them, whose paths vLLM
            hashes; their contents are added here.
        compiler: of this process: `vllm_adapter.compiler_factors`.
        folder: where the caches lie. Triton's index files and Inductor's artifacts hold absolute paths.
    """
    checkpoints = [arguments["model"], (arguments.get("speculative_config") or {}).get("model")]
    return {
        "format": FORMAT,
        "arguments": {name: value for name, value in arguments.items() if name not in IRRELEVANT_ARGUMENTS},
        "checkpoints": [_config_of(path) for path in checkpoints if path],
        "compiler": dict(compiler),
        "host": _host(),
        "folder": str(folder),
        # vLLM hashes the paths of the sources that were traced; FlashInfer's build files name them.
        "environment": sys.prefix,
    }


def _config_of(checkpoint: str) -> str | None:
    """The SHA-256 of its config.json, or None of a hub name, which vLLM resolves."""
    config = Path(checkpoint, "config.json")
    return hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else None


def _host() -> dict[str, str]:
    """What C++ parts are compiled for: with -march=native, against the libraries of this system."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return {
        "python": sys.implementation.cache_tag,
        "libc": " ".join(platform.libc_ver()),
        "system": f"{release.get('ID', '')} {release.get('VERSION_ID', '')}",
        "machine": platform.machine(),
        "cpu_flags": cpu_flags(),
    }


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns the instruction sets of the first core, sorted; nothing where the kernel does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return " ".join(sorted(filter(_INSTRUCTION_SET.match, flags)))
