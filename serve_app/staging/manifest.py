"""What a published checkpoint consists of: every file's size and SHA-256, whole and chunk by chunk.

The digest of a manifest names a version. Chunks have digests of their own so that ranges which arrive in any
order are verified as they arrive, and an interrupted download knows what it has.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import msgspec

from serve_app.staging.errors import ManifestError

NAME = "manifest.json"
FORMAT = 1
# Small beside what a connection brings in a second, so that little is fetched twice after an interruption;
# large enough that the digests of a 65 GB checkpoint take 0.5 MB.
CHUNK_BYTES = 8 * 1024 * 1024
# Hashing reads this much at once.
READ_BYTES = 1024 * 1024

_AGAIN = "publish this version again, with --replace"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ManifestFile(msgspec.Struct, frozen=True):
    """One file: its path below the folder, and what its bytes must be."""

    path: str
    size_bytes: int
    sha256: str
    chunks: tuple[str, ...]
    """SHA-256 of each `chunk_bytes` of the file in order; the last chunk may be shorter."""


class Manifest(msgspec.Struct, frozen=True):
    """A version of a checkpoint. Build one with `of_folder`, read one with `decode`."""

    source: str
    """Where the publisher had it from, as it was named: hf:ORG/NAME or file:FOLDER."""
    revision: str | None
    """The commit of the hub repository."""
    license: str | None
    files: tuple[ManifestFile, ...]
    chunk_bytes: int = CHUNK_BYTES
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """SHA-256 of paths, sizes and checksums, which names the version, wherever it came from."""
        return hashlib.sha256(msgspec.json.encode((self.chunk_bytes, self.files))).hexdigest()

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    def encode(self) -> bytes:
        """Returns the bytes of the `manifest.json`; equal manifests give equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def only(self, keep: Callable[[str], bool]) -> Manifest:
        """Returns the manifest of those files whose path `keep` accepts, a version with its own digest."""
        return msgspec.structs.replace(self, files=tuple(file for file in self.files if keep(file.path)))


def decode(content: bytes, origin: str) -> Manifest:
    """Returns the manifest that `content` holds. `origin` names it in errors.

    Raises `ManifestError` for anything that no publisher of ours writes: paths outside the folder, digests
    that do not add up, a format of a newer release.
    """
    try:
        # By itself: the fields of other formats may be others.
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:
            raise ManifestError(
                f"{origin} has format {found}, and this release reads {FORMAT}: update it, or {_AGAIN}"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"{origin} is no manifest ({error}): {_AGAIN}") from None
    problem = "; ".join(_problems(manifest))
    if problem:
        raise ManifestError(f"{origin} is damaged ({problem}): {_AGAIN}")
    return manifest


class _Format(msgspec.Struct):
    format: int = FORMAT


def _problems(manifest: Manifest) -> Iterable[str]:
    if manifest.chunk_bytes < 1:
        yield f"chunks of {manifest.chunk_bytes} bytes"
        return
    if not manifest.files:
        yield "no files"
    paths = [file.path for file in manifest.files]
    if len(set(paths)) < len(paths):
        yield "a path twice"
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    for file in manifest.files:
        if not is_safe(file.path) or file.path in folders:
            yield f"path {file.path!r}"
        if file.size_bytes < 0 or len(file.chunks) != -(-file.size_bytes // manifest.chunk_bytes):
            yield f"{file.path}: {len(file.chunks)} chunks for {file.size_bytes} bytes"
        if not all(_DIGEST.fullmatch(digest) for digest in (file.sha256, *file.chunks)):
            yield f"{file.path}: a digest that is no SHA-256"


def is_safe(path: str) -> bool:
    """Whether `path` is relative, in its shortest form, and stays inside the folder. Dot files are ours."""
    parts = path.split("/")
    return all(part and not part.startswith(".") and "\0" not in part for part in parts) and path != NAME


def of_folder(
    folder: Path,
    paths: Iterable[str],
    *,
    source: str,
    revision: str | None = None,
    license_name: str | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Manifest:
    """Returns the manifest of `paths` in `folder`, reading every byte; `on_bytes` hears how many."""
    files = tuple(_hashed(folder, path, chunk_bytes, on_bytes) for path in sorted(paths))
    return Manifest(
        source=source, revision=revision, license=license_name, files=files, chunk_bytes=chunk_bytes
    )


def _hashed(folder: Path, path: str, chunk_bytes: int, on_bytes: Callable[[int], None]) -> ManifestFile:
    whole, chunks, size = hashlib.sha256(), [], 0
    with (folder / path).open("rb") as file:
        while True:
            chunk, left = hashlib.sha256(), chunk_bytes
            while left and (piece := file.read(min(left, READ_BYTES))):
                whole.update(piece)
                chunk.update(piece)
                left -= len(piece)
                on_bytes(len(piece))
            if left == chunk_bytes:
                break
            chunks.append(chunk.hexdigest())
            size += chunk_bytes - left
    return ManifestFile(path=path, size_bytes=size, sha256=whole.hexdigest(), chunks=tuple(chunks))
