"""`python -m serve_app.staging.cache_publisher`: a compile cache to S3, beside an engine that serves already.

A process, not a thread: packing takes seconds of CPU, for which a thread would share Python's lock with the
replica's event loop.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from serve_app.staging import archives, locks
from serve_app.staging.archives import ChangedFileError, UnsafeArchiveError
from serve_app.staging.cache_folder import CacheFolder, Mark
from serve_app.staging.errors import StagingError, is_full
from serve_app.staging.generations import Generations
from serve_app.staging.locks import Lock
from serve_app.staging.objects import S3Location

logger = logging.getLogger("ray.serve")

LOWEST_PRIORITY = 19
# Each holds all files of the one before, and so few follow the first. Where more do, something in the caches
# is new at every start, and publishing it for ever would help nobody.
MAX_GENERATIONS = 20


def start(folder: CacheFolder, location: S3Location, number: int) -> threading.Thread:
    """Publishes `folder` as generation `number` in a process of its own, and logs what becomes of it.

    Returns the thread that waits for the process. A replica that ends does not wait for it.
    """
    command = [sys.executable, "-m", __name__, str(folder.path), location.uri(), str(number)]
    thread = threading.Thread(target=_run, args=(command,), name="compile-cache", daemon=True)
    thread.start()
    return thread


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        logger.warning("compile cache: not published: %s", error)
        return
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        logger.warning("compile cache: not published: %s", reason)
    else:
        logger.info("compile cache: %s", done.stdout.strip())


def publish(folder: CacheFolder, generations: Generations, number: int) -> str:
    """Sends all files of `folder` as generation `number`. Returns what has become of it.

    Raises `StagingError` when S3 does not take it, and `OSError` for what is of the disk.
    """
    if number > MAX_GENERATIONS:
        return (
            f"not published: there are {number - 1} generations already, and still something is new; if "
            f"starts compile, delete what is below {generations.location.uri()}"
        )
    begin = time.monotonic()
    with Lock(folder.publish_lock) as lock:
        if not lock.try_exclusive():
            return "not published: another replica of this node is about to"
        with folder.attempt(), folder.work("publish") as work:
            archive, paths = work / "archive", folder.files()
            try:
                total = archives.pack(folder.path, paths, archive)
            except ChangedFileError as error:
                return f"not published: {error} meanwhile; the next start of a replica tries again"
            except UnsafeArchiveError as error:
                raise StagingError(
                    f"{folder.path}: {error}; delete what nothing uses, or set staging.publish_compile_cache "
                    "to false"
                ) from error
            packed = archive.stat().st_size
            if not generations.publish(number, archive):
                return f"{generations.uri(number)} is there already: another replica was first"
        with locks.exclusive(folder.restore_lock):
            if folder.mark.generation < number:
                folder.set_mark(Mark(number, frozenset(paths)))
    return (
        f"published {generations.uri(number)}, {len(paths)} files, {total / 1e6:.1f} MB packed to "
        f"{packed / 1e6:.1f}, in {time.monotonic() - begin:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("location", type=S3Location.parse)
    parser.add_argument("number", type=int)
    options = parser.parse_args(arguments)
    os.nice(LOWEST_PRIORITY)
    folder = CacheFolder(options.folder.parent, options.folder.name)
    try:
        result = publish(folder, Generations(options.location), options.number)
    except (StagingError, OSError) as error:
        is_disk = isinstance(error, OSError) and is_full(error)
        full = f"the disk of {folder.path} is full: make room, or set staging.folder to a larger disk"
        sys.stderr.write(f"{full if is_disk else error}\n")
        return 1
    sys.stdout.write(f"{result}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
