"""A folder as one compressed file, and back, trusting nothing that the file says about paths.

Times are kept to the nanosecond: ninja, which FlashInfer builds with, compares them with its own records.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, cast

# Caches are kernels and their sources. Level 1 packs what torch.compile makes for the demo model on a CPU at
# 88 MB/s to 24 %, level 6 at 42 MB/s to 20 % (one slow core).
COMPRESSION_LEVEL = 1
COPY_BYTES = 1024 * 1024
NANOSECONDS = 1_000_000_000
# Of the files in an archive. Caches of one model are far smaller, and more comes from no publisher of ours.
MAX_BYTES = 20 * 1024**3


class UnsafeArchiveError(Exception):
    """An archive with a member that no publisher of ours writes. None of it is used."""


# What `unpack` raises for a file that is damaged or unsafe; an `OSError` is of the disk.
BROKEN = (UnsafeArchiveError, tarfile.TarError, ValueError, ArithmeticError)


class ChangedFileError(Exception):
    """A file changed while it was being packed."""


def files_of(folder: Path, keep: Callable[[str], bool]) -> list[str]:
    """Returns the regular files below `folder` that `keep` accepts: their paths relative to it, sorted."""
    return sorted(path for path in _regular_files(folder) if keep(path))


def _regular_files(folder: Path) -> Iterator[str]:
    # Not rglob: engines add and remove files meanwhile, and links are not followed.
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink() and path.is_file():
                yield str(path.relative_to(folder))


def pack(folder: Path, paths: list[str], archive: Path) -> int:
    """Writes the files `paths` of `folder` to `archive`; equal files give equal bytes. Returns their size.

    Raises `ChangedFileError` for a file that is changed or gone by the time it has been read, and
    `UnsafeArchiveError` for files that `unpack` would not take.
    """
    total = 0
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", COMPRESSION_LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in paths:
            try:
                total += _add(tar, folder / path, path)
            except FileNotFoundError:
                raise ChangedFileError(f"{path} is gone") from None
            if total > MAX_BYTES:
                raise UnsafeArchiveError(f"it would hold more than {MAX_BYTES:,} bytes")
    return total


def _add(tar: tarfile.TarFile, source: Path, path: str) -> int:
    with source.open("rb") as file:
        before = os.fstat(file.fileno())
        member = tarfile.TarInfo(path)
        member.size = before.st_size
        member.mode = 0o755 if before.st_mode & stat.S_IXUSR else 0o644
        # The float that tarfile would write has not enough digits.
        seconds, nanoseconds = divmod(before.st_mtime_ns, NANOSECONDS)
        member.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09}"}
        try:
            tar.addfile(member, file)
        except OSError as error:
            if error.errno is not None:
                raise
            raise ChangedFileError(f"{path} became shorter") from None  # tarfile: unexpected end of data
        # By its path: most writers put a new file in the place of the old one.
        after = source.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    ):
        raise ChangedFileError(f"{path} has changed")
    return before.st_size


def unpack(archive: Path, folder: Path, room_bytes: int) -> list[str]:
    """Writes what is in `archive` below the new folder `folder`. Returns the files' relative paths.

    Raises `UnsafeArchiveError` for anything but regular files and folders inside it, or more than `MAX_BYTES`
    of them, and others of `BROKEN` for a damaged file. Raises `OSError` for what is of the disk: it is full
    with `room_bytes`. What has been written by then stays in `folder`, for the caller to remove.
    """
    folder.mkdir(parents=True)
    paths: set[str] = set()
    total = 0
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            _check(member)
            if member.isdir():
                continue
            total += member.size
            if total > MAX_BYTES:
                raise UnsafeArchiveError(f"it holds more than {MAX_BYTES:,} bytes")
            if total > room_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if member.name in paths:
                raise UnsafeArchiveError(f"{member.name} is in it twice")
            paths.add(member.name)
            # tarfile returns None for what is no regular file only.
            _write(cast(BinaryIO, tar.extractfile(member)), folder / member.name, member)
    return sorted(paths)


def _check(member: tarfile.TarInfo) -> None:
    # An absolute path has an empty part before its first slash.
    if any(part in ("", ".", "..") for part in member.name.split("/")):
        raise UnsafeArchiveError(f"{member.name!r} leads out of the folder")
    # Not isreg(), which means sparse files too; nothing writes those here.
    if member.type not in (tarfile.REGTYPE, tarfile.DIRTYPE) or member.issparse():
        raise UnsafeArchiveError(f"{member.name!r} is no regular file")
    if member.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise UnsafeArchiveError(f"{member.name!r} has mode {member.mode:o}")


def _write(source: BinaryIO, target: Path, member: tarfile.TarInfo) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while piece := source.read(COPY_BYTES):
            file.write(piece)
    target.chmod(0o755 if member.mode & stat.S_IXUSR else 0o644)
    changed = int(Decimal(member.pax_headers.get("mtime", str(member.mtime))) * NANOSECONDS)
    os.utime(target, ns=(changed, changed))
