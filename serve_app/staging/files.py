"""Which files of a checkpoint's repository matter, as the patterns that huggingface_hub takes."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from serve_app.staging.manifest import is_safe

WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
# What serving reads. The gpt-oss repositories also hold `original/` and `metal/`, the weights twice more.
SERVING = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
NOT_SERVING = ["original/*", "metal/*"]
# What the licence asks to hand on with the weights.
LEGAL = ["LICENSE*", "NOTICE*", "README.md", "USAGE_POLICY*"]


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether `path`, relative to the repository, fits one of `patterns`, as huggingface_hub means them."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def is_weights(path: str) -> bool:
    """Whether an ingress can do without the file."""
    return matches(path, WEIGHTS)


def to_publish(folder: Path) -> list[str]:
    """Returns the paths below `folder` that are published, sorted. Links count as what they lead to."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path
        for path in paths
        if is_safe(path) and matches(path, SERVING + LEGAL) and not matches(path, NOT_SERVING)
    )
