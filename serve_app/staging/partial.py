"""A version that is being downloaded: preallocated files, and a record of the chunks that were verified.

.partial/DIGEST/files/...   the files at their full size
.partial/DIGEST/marks/...   beside each, one byte for each chunk: 1 once it was verified and written
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serve_app.staging import manifest as manifests
from serve_app.staging.errors import NoSpaceError, is_full
from serve_app.staging.manifest import READ_BYTES, Manifest, ManifestFile


@dataclass(frozen=True)
class Range:
    """Consecutive chunks of one file that are fetched by one request."""

    file: PartialFile
    first_chunk: int
    end_chunk: int

    @property
    def offset(self) -> int:
        """Its first byte in the file."""
        return self.first_chunk * self.file.chunk_bytes

    @property
    def size_bytes(self) -> int:
        """Its length; the file's last chunk may be shorter than the others."""
        end = min(self.end_chunk * self.file.chunk_bytes, self.file.entry.size_bytes)
        return max(0, end - self.offset)


class PartialFile:
    """One file on its way, open for writing."""

    def __init__(self, path: Path, marks: Path, entry: ManifestFile, chunk_bytes: int) -> None:
        self.entry = entry
        self.chunk_bytes = chunk_bytes
        for parent in (path.parent, marks.parent):
            parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._marks = os.open(marks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()
        marked = os.pread(self._marks, len(entry.chunks), 0)
        self._missing = {
            index for index in range(len(entry.chunks)) if index >= len(marked) or not marked[index]
        }

    def allocate(self) -> None:
        """Reserves the disk space, so that a full disk shows before the download and not within it."""
        os.ftruncate(self._file, self.entry.size_bytes)
        if self.entry.size_bytes:
            try:
                os.posix_fallocate(self._file, 0, self.entry.size_bytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise

    def verified_chunks(self) -> list[int]:
        """Returns the chunks that were marked in this or an earlier attempt."""
        with self._lock:
            return [index for index in range(len(self.entry.chunks)) if index not in self._missing]

    def missing(self, range_bytes: int) -> Iterator[Range]:
        """Yields what is still to be fetched, at most `range_bytes` (but at least a chunk) at a time."""
        most = max(1, range_bytes // self.chunk_bytes)
        with self._lock:
            missing = sorted(self._missing)
        start = 0
        for end in range(1, len(missing) + 1):
            is_gap = end == len(missing) or missing[end] != missing[end - 1] + 1
            if is_gap or end - start == most:
                yield Range(self, missing[start], missing[end - 1] + 1)
                start = end

    def write(self, data: bytes, offset: int) -> None:
        """Writes all of `data`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written

    def mark(self, chunk: int) -> None:
        """Records that `chunk` is verified and written."""
        os.pwrite(self._marks, b"\1", chunk)
        with self._lock:
            self._missing.discard(chunk)
            is_whole = not self._missing
        if is_whole:
            self.sync()  # while other files still arrive

    def sync(self) -> None:
        """Returns when the file's bytes are on disk."""
        os.fsync(self._file)

    def still_verified(self, chunk: int) -> bool:
        """Reads a marked chunk again. A mark may outlive its bytes when the machine lost power."""
        digest, offset = hashlib.sha256(), chunk * self.chunk_bytes
        left = min(self.chunk_bytes, self.entry.size_bytes - offset)
        while left and (piece := os.pread(self._file, min(left, READ_BYTES), offset)):
            digest.update(piece)
            left, offset = left - len(piece), offset + len(piece)
        if not left and digest.hexdigest() == self.entry.chunks[chunk]:
            return True
        os.pwrite(self._marks, b"\0", chunk)
        with self._lock:
            self._missing.add(chunk)
        return False

    def close(self) -> None:
        """What the file holds stays for the next attempt."""
        for file in (self._file, self._marks):
            os.close(file)


class PartialFolder:
    """All files of a version on their way. Only the holder of the version's lock may open one."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.files: list[PartialFile] = []

    def __enter__(self) -> PartialFolder:
        try:
            for entry in self.manifest.files:
                file = PartialFile(
                    self.folder / "files" / entry.path,
                    self.folder / "marks" / entry.path,
                    entry,
                    self.manifest.chunk_bytes,
                )
                self.files.append(file)
                file.allocate()
        except OSError as error:
            self.close()
            raise_if_full(error, self.folder, self.manifest)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files; what they hold stays for the next attempt."""
        for file in self.files:
            file.close()
        self.files = []

    def finish(self, place: Path) -> None:
        """Gives the complete folder its final name. From then on it is there, whatever happens."""
        files = self.folder / "files"
        for partial in self.files:
            assert not any(partial.missing(1)), f"{partial.entry.path} is not complete"
            partial.sync()
        with (files / f".{manifests.NAME}").open("wb") as file:
            file.write(self.manifest.encode())
            file.flush()
            os.fsync(file.fileno())
        for folder in [files, *(path for path in files.rglob("*") if path.is_dir())]:
            _sync_folder(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        files.rename(place)
        _sync_folder(place.parent)
        shutil.rmtree(self.folder)


def allocated_bytes(folder: Path) -> int:
    """Returns how much of the files below `folder` has its place on disk, in bytes of the files."""
    total = 0
    # Unlike `rglob`, `walk` passes over folders that vanish: another process may finish or evict this one.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = Path(parent, name).lstat()
                total += min(status.st_size, status.st_blocks * 512)
    return total


def raise_if_full(error: OSError, folder: Path, manifest: Manifest) -> None:
    """Raises `NoSpaceError` if `error` says that the disk under `folder` is full."""
    if is_full(error):
        raise NoSpaceError(
            f"the disk of {folder} is full ({manifest.total_bytes:,} bytes are needed in all): make room, or "
            "set staging.folder to a larger disk, and start again: what has arrived is kept"
        ) from error


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
