"""The versions on a node's disk: one download however many processes ask, in use, evicted by last use.

FOLDER/NAME-DIGEST/     a complete version, and nothing else has such a name
FOLDER/.partial/DIGEST  one on its way (`partial`)
FOLDER/.locks/DIGEST    held by the process that downloads it
FOLDER/.in-use/DIGEST   shared by the processes that use it; its time is the version's last use
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from serve_app.staging import manifest as manifests
from serve_app.staging import objects
from serve_app.staging.download import Download
from serve_app.staging.errors import NoSpaceError, NotPublishedError, StagingError
from serve_app.staging.locks import Lock
from serve_app.staging.manifest import Manifest
from serve_app.staging.objects import S3Location
from serve_app.staging.partial import PartialFolder, allocated_bytes, raise_if_full
from serve_app.staging.progress import Progress, follow

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

logger = logging.getLogger("ray.serve")

# How much of a digest names a folder: enough that versions of one bucket never meet.
DIGEST_CHARACTERS = 16
# Left free on the disk: what engines and logs write there while they run.
RESERVE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class StagedFolder:
    """A complete version on this node. It is not evicted until `close`, or until the process ends."""

    path: Path
    manifest: Manifest
    in_use: Lock

    def close(self) -> None:
        """Says that the files are no longer needed."""
        self.in_use.close()


class Store:
    """A staging folder of the node. Any number of processes may use one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int | None = None,
        range_bytes: int,
        concurrency: int,
        client: S3Client | None = None,
    ) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._range_bytes = range_bytes
        self._concurrency = concurrency
        self._client = client or objects.new_client(concurrency)

    def stage(
        self,
        location: S3Location,
        *,
        digest: str | None = None,
        keep: Callable[[str], bool] | None = None,
        progress: Progress | None = None,
    ) -> StagedFolder:
        """Returns the folder that holds the version at `location`, after downloading it if need be.

        Args:
            digest: the version that must be there, by the first characters of its digest; None for any.
            keep: which of its files are needed; a complete folder serves as well.
            progress: hears of it; default: lines in the log.

        Raises `StagingError`. What has arrived by then is kept for the next attempt.
        """
        whole = read_manifest(self._client, location)
        if digest and not whole.digest.startswith(digest):
            raise StagingError(
                f"{location.uri()} holds version {whole.digest[:DIGEST_CHARACTERS]}, not {digest}: give the "
                "digest that `stage publish` printed, or the prefix of that version"
            )
        manifest = whole.only(keep) if keep else whole
        progress = progress or Progress.logged(location.uri())
        try:
            # Those who need a few files take them from the whole version if it is there.
            for version in (whole, manifest):
                if staged := self._use(location.name, version):
                    return staged
            with self._downloading(manifest, progress):
                while not (staged := self._use(location.name, manifest)):
                    self._download(location, manifest, progress)
            return staged
        except OSError as error:
            raise_if_full(error, self.folder, manifest)
            raise StagingError(f"{self.folder}: {error}; check that staging.folder can be written") from error

    def place(self, name: str, manifest: Manifest) -> Path:
        """Returns where the version lies once it is complete."""
        return self.folder / f"{name}-{_short(manifest)}"

    def _use(self, name: str, manifest: Manifest) -> StagedFolder | None:
        """The version, marked as in use, if it is complete."""
        place = self.place(name, manifest)
        if not place.is_dir():
            return None
        in_use = Lock(self.folder / ".in-use" / _short(manifest))
        in_use.shared()
        if not place.is_dir():  # evicted meanwhile
            in_use.close()
            return None
        in_use.touch()
        return StagedFolder(place, manifest, in_use)

    @contextmanager
    def _downloading(self, manifest: Manifest, progress: Progress) -> Iterator[None]:
        """Holds the version's lock. While another process has it, shows how far that one is."""
        partial = self.folder / ".partial" / _short(manifest)
        with Lock(self.folder / ".locks" / _short(manifest)) as lock:
            if not lock.try_exclusive():
                with follow(partial / "marks", manifest, progress):
                    lock.exclusive()
            yield

    def _download(self, location: S3Location, manifest: Manifest, progress: Progress) -> None:
        folder = self.folder / ".partial" / _short(manifest)
        folder.mkdir(parents=True, exist_ok=True)
        self._make_room(manifest, allocated_bytes(folder))
        with progress.of(manifest.total_bytes) as on_bytes, PartialFolder(folder, manifest) as partial:
            Download(
                self._client,
                location,
                partial,
                range_bytes=self._range_bytes,
                concurrency=self._concurrency,
                on_bytes=on_bytes,
            ).run()
            partial.finish(self.place(location.name, manifest))

    def _make_room(self, manifest: Manifest, present_bytes: int) -> None:
        """Evicts the versions used longest ago, until disk and budget hold the new one."""
        needed = max(0, manifest.total_bytes - present_bytes)
        if self._max_bytes is not None and manifest.total_bytes > self._max_bytes:
            raise NoSpaceError(
                f"the version takes {manifest.total_bytes:,} bytes and staging.max_bytes is "
                f"{self._max_bytes:,}: raise it"
            )
        victims = self._by_last_use(_short(manifest))
        while problem := self._problem(needed):
            victim = next(victims, None)
            if victim is None:
                raise NoSpaceError(
                    f"{problem}, and every other version there is in use: make room, raise "
                    "staging.max_bytes, or set staging.folder to a larger disk"
                )
            self._evict(victim)

    def _problem(self, needed: int) -> str:
        free = shutil.disk_usage(self.folder).free
        if needed + RESERVE_BYTES > free:
            return f"{needed:,} bytes are needed in {self.folder} and {free:,} are free"
        if self._max_bytes is not None:
            held = sum(allocated_bytes(path) for path in self._versions())
            if held + needed > self._max_bytes:
                return (
                    f"{needed:,} bytes are needed beside {held:,} in {self.folder}, more than "
                    f"staging.max_bytes ({self._max_bytes:,})"
                )
        return ""

    def _versions(self) -> list[Path]:
        partial = self.folder / ".partial"
        whole = [path for path in self.folder.iterdir() if (path / f".{manifests.NAME}").is_file()]
        return whole + (list(partial.iterdir()) if partial.is_dir() else [])

    def _by_last_use(self, except_digest: str) -> Iterator[Path]:
        def last_use(path: Path) -> float:
            mark = self.folder / ".in-use" / _digest_of(path)
            return (mark if mark.exists() else path).stat().st_mtime

        others = [path for path in self._versions() if _digest_of(path) != except_digest]
        yield from sorted(others, key=last_use)

    def _evict(self, version: Path) -> None:
        """Removes the version unless a process uses or downloads it."""
        digest = _digest_of(version)
        with Lock(self.folder / ".locks" / digest) as download, Lock(self.folder / ".in-use" / digest) as use:
            if not (download.try_exclusive() and use.try_exclusive()):
                return
            size = allocated_bytes(version)
            # Renamed first: what has its final name must be whole.
            trash = tempfile.mkdtemp(prefix=".evicted-", dir=self.folder)
            version.rename(Path(trash) / version.name)
        shutil.rmtree(trash)
        logger.info("evicted %s (%s bytes) to make room", version, f"{size:,}")


def read_manifest(client: S3Client, location: S3Location) -> Manifest:
    """Returns the manifest at `location`. Raises `NotPublishedError` where there is none."""
    uri = location.uri(manifests.NAME)

    def get() -> bytes | None:
        try:
            answer = client.get_object(Bucket=location.bucket, Key=location.key(manifests.NAME))
            return answer["Body"].read()
        except ClientError as error:
            if objects.status(error) == 404 and error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise

    content = objects.retrying(get, f"GET {uri}")
    if content is None:
        raise NotPublishedError(
            f"{uri} does not exist, so nothing is published at {location.uri()}, or not completely: "
            f"python -m serve_app.stage publish SOURCE {location.uri()}"
        )
    return manifests.decode(content, uri)


def _short(manifest: Manifest) -> str:
    return manifest.digest[:DIGEST_CHARACTERS]


def _digest_of(version: Path) -> str:
    return version.name.rsplit("-", 1)[-1]
