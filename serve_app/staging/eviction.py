"""Eviction: the versions used longest ago leave a node's disk for another, never one that is in use."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serve_app.staging import manifest as manifests
from serve_app.staging.errors import NoSpaceError
from serve_app.staging.locks import Lock
from serve_app.staging.partial import allocated_bytes

logger = logging.getLogger("ray.serve")

# Left free on the disk: what engines and logs write there while they run.
RESERVE_BYTES = 256 * 1024 * 1024


def make_room(folder: Path, digest: str, total_bytes: int, max_bytes: int | None, what: str) -> None:
    """Evicts versions from the staging folder until disk and budget hold another of `total_bytes`.

    What that one has on disk already, in `.partial/DIGEST`, counts. To be called by one process at a time,
    which reserves the space before the next one does. Raises `NoSpaceError`; `what` names the version there.
    """
    if max_bytes is not None and total_bytes > max_bytes:
        raise NoSpaceError(
            f"{what} takes {total_bytes:,} bytes in {folder}, more than staging.max_bytes ({max_bytes:,}): "
            "raise it"
        )
    # Left by processes that were killed while they evicted.
    for trash in _evicted(folder).glob("*"):
        shutil.rmtree(trash, ignore_errors=True)
    needed = max(0, total_bytes - allocated_bytes(folder / ".partial" / digest))
    victims = _by_last_use(folder, digest)
    while problem := _problem(folder, digest, needed, total_bytes, max_bytes):
        victim = next(victims, None)
        if victim is None:
            raise NoSpaceError(
                f"{what}: {problem}, and no version there can be evicted: make room, raise "
                "staging.max_bytes, or set staging.folder to a larger disk"
            )
        _evict(folder, victim)


def _problem(folder: Path, digest: str, needed: int, total_bytes: int, max_bytes: int | None) -> str:
    free = shutil.disk_usage(folder).free
    if needed + RESERVE_BYTES > free:
        return (
            f"{needed:,} bytes are needed in {folder} ({RESERVE_BYTES:,} stay in reserve), {free:,} are free"
        )
    if max_bytes is not None:
        held = sum(allocated_bytes(path) for path in _others(folder, digest))
        if held + total_bytes > max_bytes:
            return (
                f"{total_bytes:,} bytes are needed beside {held:,} in {folder}, more than staging.max_bytes "
                f"({max_bytes:,})"
            )
    return ""


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


def _evict(folder: Path, version: Path) -> None:
    """Removes the version unless a process uses or downloads it."""
    digest = _digest_of(version)
    with Lock(folder / ".locks" / digest) as download, Lock(folder / ".in-use" / digest) as use:
        if not (download.try_exclusive() and use.try_exclusive()) or not version.is_dir():
            return
        size = allocated_bytes(version)
        # Renamed first: what has its final name must be whole.
        _evicted(folder).mkdir(exist_ok=True)
        trash = Path(tempfile.mkdtemp(dir=_evicted(folder)))
        version.rename(trash / version.name)
    shutil.rmtree(trash)
    logger.info("evicted %s (%s bytes) to make room", version, f"{size:,}")


def _evicted(folder: Path) -> Path:
    return folder / ".evicted"


def _digest_of(version: Path) -> str:
    return version.name.rsplit("-", 1)[-1]
