"""The versions on a node's disk: one download however many processes ask, in use, evicted by last use.

FOLDER/NAME-DIGEST/     a complete version, and nothing else has such a name
FOLDER/.partial/DIGEST  one on its way (`partial`)
FOLDER/.locks/DIGEST    held by the process that downloads it
FOLDER/.in-use/DIGEST   shared by the processes that use it; its time is the version's last use
FOLDER/.evicted/...     on its way out (`eviction`)
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from urllib3.exceptions import ProtocolError

from serve_app.staging import manifest as manifests
from serve_app.staging import objects
from serve_app.staging.download import Download
from serve_app.staging.errors import NotPublishedError, StagingError
from serve_app.staging.eviction import make_room
from serve_app.staging.locks import Lock, exclusive
from serve_app.staging.manifest import Manifest
from serve_app.staging.objects import S3Location
from serve_app.staging.partial import PartialFolder, raise_if_full
from serve_app.staging.progress import Progress, follow
from serve_app.staging.watchdog import Watchdog

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# How much of a digest names a folder: enough that versions of one bucket never meet.
DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class StagedFolder:
    """A complete version on this node. It is not evicted until `close`, or until the process ends."""

    path: Path
    manifest: Manifest
    in_use: Lock

    def close(self) -> None:
        """Says that the files are no longer needed. Doing it again does nothing."""
        self.in_use.touch()
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
            digest: the version that must be there, by the first characters of its digest; None for any. Where
                the node has it, S3 is not asked.
            keep: which of its files are needed; a complete folder serves as well.
            progress: hears of it; default: lines in the log.

        Raises `StagingError`. What has arrived by then is kept for the next attempt.
        """
        if digest and (staged := self._pinned(location.name, digest)):
            return staged
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

    def _pinned(self, name: str, digest: str) -> StagedFolder | None:
        """The version of this digest if it is complete. A node can start again while S3 cannot be reached."""
        for place in self.folder.glob(f"{glob.escape(name)}-{digest[:DIGEST_CHARACTERS]}*"):
            with suppress(OSError, StagingError):
                copy = place / f".{manifests.NAME}"
                manifest = manifests.decode(copy.read_bytes(), str(copy))
                if manifest.digest.startswith(digest) and place == self.place(name, manifest):
                    return self._use(name, manifest)
        return None

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
        folder.touch()  # its last use
        with ExitStack() as stack:
            # One after the other, until the space is reserved, so that no two count on the same.
            with exclusive(self.folder / ".locks" / "room"):
                make_room(
                    self.folder, _short(manifest), manifest.total_bytes, self._max_bytes, location.uri()
                )
                partial = stack.enter_context(PartialFolder(folder, manifest))
            Download(
                self._client,
                location,
                partial,
                range_bytes=self._range_bytes,
                concurrency=self._concurrency,
                on_bytes=stack.enter_context(progress.of(manifest.total_bytes)),
            ).run()
            partial.finish(self.place(location.name, manifest))


def read_manifest(client: S3Client, location: S3Location) -> Manifest:
    """Returns the manifest at `location`. Raises `NotPublishedError` where there is none."""
    uri = location.uri(manifests.NAME)

    def get() -> bytes | None:
        try:
            answer = client.get_object(Bucket=location.bucket, Key=location.key(manifests.NAME))
        except ClientError as error:
            if objects.status(error) == 404 and error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        with objects.body_of(answer) as body, Watchdog(objects.READ_TIMEOUT_S) as watchdog:
            content = b"".join(iter(lambda: watchdog.read(body), b""))
        digest = answer["Metadata"].get(objects.DIGEST_METADATA)
        if digest and hashlib.sha256(content).hexdigest() != digest:
            raise ProtocolError("the answer does not have the SHA-256 that its metadata gives")
        return content

    content = objects.retrying(get, f"GET {uri}")
    if content is None:
        raise NotPublishedError(
            f"{uri} does not exist, so nothing is published at {location.uri()}, or not completely: "
            f"python -m serve_app.stage publish SOURCE {location.uri()}"
        )
    return manifests.decode(content, uri)


def _short(manifest: Manifest) -> str:
    return manifest.digest[:DIGEST_CHARACTERS]
