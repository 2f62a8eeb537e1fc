"""A checkpoint's source as a value: `s3://BUCKET/PREFIX`, `hf:ORG/NAME[@REVISION]`, `file:FOLDER`."""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from pathlib import Path

ALLOWED = "s3://BUCKET/PREFIX, hf:ORG/NAME or file:FOLDER"

_S3_LOCATION = re.compile(r"[\w.-]+(/[^/\s]+)+/?")


class SourceKind(enum.Enum):
    """The kinds; the values are what their texts begin with."""

    S3 = "s3://"
    """A prefix in a bucket, published by `stage publish`."""
    HUB = "hf:"
    """A repository of the Hugging Face hub."""
    FOLDER = "file:"
    """A folder of the node."""


@dataclass(frozen=True)
class Source:
    """A source of a checkpoint. `str()` is the text that `parse` reads."""

    kind: SourceKind
    location: str
    """`BUCKET/PREFIX`, `ORG/NAME`, or the folder as it was written, with `~` and variables."""
    revision: str | None = None
    """Of a repository: a branch, tag or commit, where the text names one."""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Returns the source that `text` names. Raises `ValueError`, which says what is allowed."""
        for kind in SourceKind:
            if text.startswith(kind.value):
                break
        else:
            raise ValueError(f"{text}: unknown kind of source; use {ALLOWED}")
        location, at, revision = text.removeprefix(kind.value), "", ""
        if kind is SourceKind.HUB:
            location, at, revision = location.partition("@")
        is_whole = bool(location) and bool(revision) == bool(at)
        if not is_whole or (kind is SourceKind.S3 and not _S3_LOCATION.fullmatch(location)):
            raise ValueError(f"{text}: not a whole source; use {ALLOWED}")
        return cls(kind, location, revision or None)

    def __str__(self) -> str:
        return self.kind.value + self.location + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """The last part of the location: what people call the checkpoint."""
        return self.location.rstrip("/").rsplit("/", 1)[-1]

    @property
    def folder(self) -> Path:
        """The folder on this node. Of a `FOLDER` only."""
        return on_this_node(self.location)


def on_this_node(folder: str) -> Path:
    """Returns a folder of the config with `~` and variables filled in, as this node has them."""
    return Path(os.path.expandvars(folder)).expanduser()
