"""What vLLM compiles, kept on the node and in S3, so that the next start need not compile it again."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_app.config.sections import StagingConfig
from serve_app.staging import archives, cache_publisher, locks, objects
from serve_app.staging.archives import UnsafeArchiveError
from serve_app.staging.cache_folder import PUBLISH_AGAIN_S, VARIABLES, CacheFolder, Mark, travels
from serve_app.staging.cache_key import factors_of, key_of
from serve_app.staging.errors import CorruptObjectError, StagingError, is_full
from serve_app.staging.generations import Generations
from serve_app.staging.locks import Lock
from serve_app.staging.objects import S3Location
from serve_app.staging.watchdog import Watchdog

logger = logging.getLogger("ray.serve")

# How long S3 may take to say what there is, and then to deliver. Compiling anew takes a few minutes.
LIST_S = 15.0
FETCH_S = 60.0
# Left free on the disk beside what an archive unpacks to.
RESERVE_BYTES = 1024**3
KEY_CHARACTERS = 16


class CompileCache:
    """The caches that fit what an engine is about to compile. Nothing here raises: they are an optimisation.

    `arguments` are vLLM's engine arguments, `compiler` what `vllm_adapter.compiler_factors` returns.
    """

    def __init__(
        self, staging: StagingConfig, arguments: Mapping[str, Any], compiler: Mapping[str, Any]
    ) -> None:
        root = staging.path / "compile"
        self.key = key_of(factors_of(arguments, compiler, root))
        self.folder = CacheFolder(root, self.key[:KEY_CHARACTERS])
        self.state = "cold"
        """For people: where what is in the folder comes from."""
        caches = staging.compile_cache
        self._location = S3Location.parse(caches).below(self.key) if caches else None
        self._may_publish = staging.publish_compile_cache
        # The newest generation in S3, which may be unusable. None where that, or what it holds, is not known:
        # what this node then compiles need not be news.
        self._newest: int | None = None
        self._in_use: Lock | None = None

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """Returns the variables to set before an engine is started. What is `present` stays as it is."""
        # torch fills this one in by itself when it is imported, so it is nobody's choice.
        filled_in = f"{tempfile.gettempdir()}/torchinductor_"
        return {
            name: str(self.folder.path / subfolder)
            for name, subfolder in VARIABLES.items()
            if not present.get(name) or present[name].startswith(filled_in)
        }

    def restore(self) -> None:
        """Fills the folder from the newest archive, unless it holds that already, and keeps it from removal.

        Waits while another process of the node does so. What goes wrong is a warning.
        """
        try:
            self._in_use = self.folder.open()
            if self.folder.files():
                self.state = "of this node"
            if self._location:
                self._restore(Generations(self._location))
        except StagingError as error:
            logger.warning("compile cache: %s. Without it the engine compiles", error)
        except OSError as error:
            if not is_full(error):
                self._warn()
            else:
                logger.warning(
                    "compile cache: the disk of %s is full (%s bytes stay in reserve): make room, or set "
                    "staging.folder to a larger disk. Without it the engine compiles",
                    self.folder.path,
                    f"{RESERVE_BYTES:,}",
                )
        except Exception:  # whatever disks and archives can come up with: a cold start is better than none
            self._warn()

    def _warn(self) -> None:
        logger.warning("compile cache %s: without it the engine compiles", self.folder.path, exc_info=True)

    def publish(self) -> threading.Thread | None:
        """Sends what is new as the next generation, in a process of its own with the lowest priority.

        To be called when the engine is warm. Returns what waits for the process, None if there is nothing
        to do.
        """
        if not (self._location and self._may_publish) or self._newest is None:
            return None
        if self.folder.has_failed_lately():
            logger.info(
                "compile cache: not published again: an attempt of this node, less than %d minutes ago, has "
                "not succeeded",
                PUBLISH_AGAIN_S / 60,
            )
            return None
        new = len(self._new_files())
        if not new:
            logger.info("compile cache: nothing that %s lacks", self._location.uri())
            return None
        logger.info("compile cache: publishing, for %d files that were not there before", new)
        return cache_publisher.start(self.folder, self._location, self._newest + 1)

    def _new_files(self) -> list[str]:
        """What is here and not in the newest archive. Files that have only changed do not count."""
        mark = self.folder.mark
        # An archive that could not be used, or that is gone from the bucket, holds nothing.
        known = mark.files if mark.generation == self._newest else frozenset()
        return [path for path in self.folder.files() if path not in known]

    def _restore(self, generations: Generations) -> None:
        with _at_most(LIST_S) as watchdog:
            newest = generations.newest(watchdog.stopped)
        with locks.exclusive(self.folder.restore_lock):
            if newest > self.folder.mark.generation:
                try:
                    self._fetch(generations, newest)
                except CorruptObjectError as error:
                    self._newest = newest
                    raise StagingError(
                        f"{generations.uri(newest)} cannot be used ({error}): delete it, or leave it for "
                        "the next generation to take its place"
                    ) from error
        self._newest = newest
        if newest:
            self.state = f"generation {self.folder.mark.generation}"

    def _fetch(self, generations: Generations, number: int) -> None:
        start = time.monotonic()
        with self.folder.work("restore") as work:
            archive, unpacked = work / "archive", work / "files"
            with _at_most(FETCH_S) as watchdog:
                generations.download(number, archive, _room_bytes(work), watchdog)
            try:
                paths = archives.unpack(archive, unpacked, _room_bytes(work))
                if strange := next((path for path in paths if not travels(path)), None):
                    raise UnsafeArchiveError(f"{strange!r} is of no cache")
            except archives.BROKEN as error:
                raise CorruptObjectError(str(error)) from error
            for path in paths:
                target = self.folder.path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                # What replicas of this node have in use stays with them; equal names mean equal contents.
                (unpacked / path).replace(target)
            self.folder.set_mark(Mark(number, frozenset(paths)))
            logger.info(
                "compile cache: restored %s, %d files, %.1f MB packed, in %.1f s",
                generations.uri(number),
                len(paths),
                archive.stat().st_size / 1e6,
                time.monotonic() - start,
            )


def _room_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free - RESERVE_BYTES


@contextmanager
def _at_most(seconds: float) -> Iterator[Watchdog]:
    """Yields a watchdog that breaks off what takes longer."""
    with Watchdog(objects.READ_TIMEOUT_S) as watchdog:
        timer = threading.Timer(seconds, watchdog.stop)
        timer.daemon = True
        timer.start()
        try:
            yield watchdog
        finally:
            timer.cancel()
