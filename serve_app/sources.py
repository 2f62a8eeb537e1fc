"""Where checkpoints come from: `hf:ORG/NAME` (the Hugging Face hub) or `file:FOLDER`."""

from __future__ import annotations

import os
from pathlib import Path

WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]
# What serving reads. The gpt-oss repositories also hold `original/` and `metal/`, the weights twice more.
SERVING_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
NOT_SERVING_FILES = ["original/*", "metal/*"]


class SourceError(Exception):
    """A checkpoint that is not where the config says. The message says what to do."""


def resolve(source: str, revision: str | None, *, weights: bool = True) -> str:
    """Returns the folder on this node that holds `source`, downloading it from the hub if need be.

    `weights=False` leaves the tensors out: an ingress needs config and tokenizer only.
    Raises `SourceError` when the folder or the repository cannot be had.
    """
    kind, _, location = source.partition(":")
    if kind == "file":
        folder = Path(os.path.expandvars(location)).expanduser()
        if not (folder / "config.json").is_file():
            raise SourceError(
                f"{source}: no config.json in {folder}. The demo checkpoint is made by "
                f"`python -m serve_app.demo`; scripts/serve does that by itself."
            )
        return str(folder.resolve())
    if kind == "hf":
        from huggingface_hub import snapshot_download

        try:
            return snapshot_download(
                location,
                revision=revision,
                allow_patterns=SERVING_FILES,
                ignore_patterns=NOT_SERVING_FILES + ([] if weights else WEIGHT_FILES),
            )
        except (OSError, ValueError) as error:
            # huggingface_hub derives its errors (no network, no such repository, gated) from these two.
            raise SourceError(
                f"{source} (revision {revision or 'main'}) cannot be downloaded: {error}. Check the name, "
                f"HF_TOKEN for a gated repository, and the network; or give file:FOLDER."
            ) from error
    raise SourceError(f"{source}: unknown kind of source; use hf:ORG/NAME or file:FOLDER")
