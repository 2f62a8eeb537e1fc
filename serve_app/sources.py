"""Checkpoints on this node: what a `Source` names, downloaded if need be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serve_app.config.source import Source, SourceKind
from serve_app.staging import files
from serve_app.staging.errors import StagingError

if TYPE_CHECKING:
    from serve_app.config import StagingConfig
    from serve_app.staging.store import StagedFolder, Store


class SourceError(Exception):
    """A checkpoint that is not where the config says. The message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this node."""

    path: str
    """The folder."""
    staged: StagedFolder | None = None
    """Of an s3: source. Held by a live replica, it keeps the folder from eviction."""


def resolve(
    source: Source, revision: str | None, staging: StagingConfig, *, weights: bool = True
) -> Checkpoint:
    """Returns `source` as a folder on this node, downloading it if need be: minutes for large weights.

    `weights=False` leaves the tensors out: an ingress needs config and tokenizer only.
    Raises `SourceError` when the folder, the version or the repository cannot be had.
    """
    if source.kind is SourceKind.FOLDER:
        return Checkpoint(_local_folder(source))
    if source.kind is SourceKind.HUB:
        return Checkpoint(hub_folder(source.location, revision or source.revision, weights=weights))
    from serve_app.staging.objects import S3Location

    keep = None if weights else lambda path: not files.is_weights(path)
    try:
        staged = store(staging).stage(S3Location.of(source), digest=revision, keep=keep)
    except StagingError as error:
        raise SourceError(str(error)) from error
    return Checkpoint(str(staged.path), staged)


def store(staging: StagingConfig) -> Store:
    """Returns the node's store as the config describes it. boto3 looks for credentials now."""
    from serve_app.staging.store import Store

    return Store(
        staging.path,
        max_bytes=staging.max_bytes,
        range_bytes=staging.range_bytes,
        concurrency=staging.concurrency,
    )


def hub_folder(
    repository: str, revision: str | None, *, weights: bool = True, extra_files: tuple[str, ...] = ()
) -> str:
    """Returns the folder in huggingface_hub's cache that holds what serving reads of `repository`.

    `extra_files` are patterns of what else is wanted. Raises `SourceError`.
    """
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[*files.SERVING, *extra_files],
            ignore_patterns=files.NOT_SERVING + ([] if weights else files.WEIGHTS),
        )
    except (OSError, ValueError) as error:
        # huggingface_hub derives its errors (no network, no such repository, gated) from these two.
        raise SourceError(
            f"hf:{repository} (revision {revision or 'main'}) cannot be downloaded: {error}. Check the name, "
            f"HF_TOKEN for a gated repository, and the network; or give s3://BUCKET/PREFIX or file:FOLDER."
        ) from error


def _local_folder(source: Source) -> str:
    folder = source.folder
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"{source}: no config.json in {folder}. The demo checkpoint is made by "
            f"`python -m serve_app.demo`; scripts/serve does that by itself."
        )
    return str(folder.resolve())
