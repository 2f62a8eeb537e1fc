"""Eviction: the versions used longest ago leave a node's disk for another, never one that is in use."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from serve_app.staging import manifest as manifests
from serve_app.staging.errors import NoSpaceError
from serve_app.staging.locks import Lock
from serve_app.staging.partial import allocated_bytes

logger = logging.getLogger("ray.serve")

# Left free on the disk: what engines and logs write there while they run.
RESERVE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class _Need:
    """What a version needs of the staging folder `folder`."""

    folder: Path
    total_bytes: int
    missing_bytes: int
    """Of `total_bytes`, those that have no place on the disk yet."""
    max_bytes: int | None

    def never(self, disk_bytes: int) -> str:
        """Returns why it cannot fit whatever is evicted, or nothing."""
        takes = f"takes {self.total_bytes:,} bytes in {self.folder}"
        if self.max_bytes is not None and self.total_bytes > self.max_bytes:
            return f"{takes}, more than staging.max_bytes ({self.max_bytes:,}): raise it"
        if self.total_bytes + RESERVE_BYTES > disk_bytes:
            return (
                f"{takes} ({RESERVE_BYTES:,} stay in reserve), and its disk has {disk_bytes:,} in all: set "
                "staging.folder to a larger disk"
            )
        return ""

    def problem(self, free_bytes: int, held_bytes: int) -> str:
        """Returns why it does not fit with so much free on the disk, and held by other versions."""
        if self.missing_bytes + RESERVE_BYTES > free_bytes:
            return (
                f"{self.missing_bytes:,} bytes are needed in {self.folder} ({RESERVE_BYTES:,} stay in "
                f"reserve), {free_bytes:,} are free"
            )
        if self.max_bytes is not None and held_bytes + self.total_bytes > self.max_bytes:
            return (
                f"{self.total_bytes:,} bytes are needed beside {held_bytes:,} in {self.folder}, more than "
                f"staging.max_bytes ({self.max_bytes:,})"
            )
        return ""


def make_room(folder: Path, digest: str, total_bytes: int, max_bytes: int | None, what: str) -> None:
    """Evicts versions from the staging folder until disk and budget hold another of `total_bytes`.

    What that one has on disk already, in `.partial/DIGEST`, counts. Nothing is evicted where all that may be
    would not suffice. To be called by one process at a time, which reserves the space before the next one
    does. Raises `NoSpaceError`; `what` names the version there.
    """
    # Left by processes that were killed while they evicted.
    for trash in _evicted(folder).glob("*"):
        shutil.rmtree(trash, ignore_errors=True)
    missing = max(0, total_bytes - allocated_bytes(folder / ".partial" / digest))
    need = _Need(folder, total_bytes, missing, max_bytes)
    if problem := need.never(shutil.disk_usage(folder).total):
        raise NoSpaceError(f"{what} {problem}")
    # Again, since others write to the disk, too.
    while problem := need.problem(*_free_and_held(folder, digest)):
        _evict_for(need, digest, f"{what}: {problem}")


def _free_and_held(folder: Path, digest: str) -> tuple[int, int]:
    held = sum(allocated_bytes(path) for path in _others(folder, digest))
    return shutil.disk_usage(folder).free, held


def _evict_for(need: _Need, digest: str, problem: str) -> None:
    """Evicts the versions used longest ago, as many as it takes, or none and raises `NoSpaceError`."""
    free, held = _free_and_held(need.folder, digest)
    evictable = 0
    # Until it is known that they suffice, nobody can begin to use them.
    with ExitStack() as unused:
        victims = []
        for version in _by_last_use(need.folder, digest):
            if not unused.enter_context(_unused(need.folder, version)):
                continue
            victims.append(version)
            evictable += allocated_bytes(version)
            if not need.problem(free + evictable, held - evictable):
                break
        else:
            found = (
                f"evicting all that may be ({evictable:,} bytes) would not suffice, so nothing was evicted"
                if evictable
                else "no version there can be evicted"
            )
            raise NoSpaceError(
                f"{problem}, and {found}: make room, raise staging.max_bytes, or set staging.folder to a "
                "larger disk"
            )
        trash = [_evict(need.folder, version) for version in victims]
    for path in trash:
        shutil.rmtree(path)


def _others(folder: Path, digest: str) -> list[Path]:
    """All versions but `digest`, complete or not."""
    # In this order: another process may finish one between the two, and it must not escape both.
    versions = list((folder / ".partial").glob("*"))
    versions += [path for path in folder.iterdir() if (path / f".{manifests.NAME}").is_file()]
    return [path for path in versions if _digest_of(path) != digest]


def _by_last_use(folder: Path, digest: str) -> Iterator[Path]:
    def last_use(path: Path) -> float:
        # A version that is on its way has perhaps never been used.
        return max(_modified(path), _modified(folder / ".in-use" / _digest_of(path)))

    yield from sorted(_others(folder, digest), key=last_use)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def _unused(folder: Path, version: Path) -> Iterator[bool]:
    """Whether nobody uses or downloads the version. Within the block, nobody begins to."""
    digest = _digest_of(version)
    with Lock(folder / ".locks" / digest) as download, Lock(folder / ".in-use" / digest) as use:
        yield download.try_exclusive() and use.try_exclusive() and version.is_dir()


def _evict(folder: Path, version: Path) -> Path:
    """Takes a version out of the folder while it is `_unused`. Returns what is to be removed."""
    size = allocated_bytes(version)
    # Renamed first: what has its final name must be whole.
    _evicted(folder).mkdir(exist_ok=True)
    trash = Path(tempfile.mkdtemp(dir=_evicted(folder)))
    version.rename(trash / version.name)
    logger.info("evicted %s (%s bytes) to make room", version, f"{size:,}")
    return trash


def _evicted(folder: Path) -> Path:
    return folder / ".evicted"


def _digest_of(version: Path) -> str:
    return version.name.rsplit("-", 1)[-1]
