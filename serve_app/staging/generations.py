"""The archives of compile caches in S3: KEY/00001.tar.gz and so on, of which the newest counts.

Whoever may write there decides what code the engines run: the archives hold machine code and pickles, and the
checksum in an object's metadata only tells a damaged archive from a whole one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from serve_app.staging import objects
from serve_app.staging.errors import CorruptObjectError, StagingError
from serve_app.staging.objects import S3Location
from serve_app.staging.publish import DIGEST_METADATA
from serve_app.staging.watchdog import Watchdog

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_NAME = re.compile(r"(\d{5})\.tar\.gz")
# What S3 takes in one PUT, and only one PUT can be conditional. Caches of one model are far smaller.
MAX_ARCHIVE_BYTES = 5 * 1024**3
# The object is there already, or is being written at this moment.
_LOST = (409, 412)


class Generations:
    """The archives below `location`, one prefix for each key."""

    def __init__(self, location: S3Location, client: S3Client | None = None) -> None:
        self.location = location
        self._client = client or objects.new_client()

    def uri(self, number: int) -> str:
        """Returns the address of a generation, for people."""
        return self.location.uri(_name(number))

    def newest(self, stop: threading.Event | None = None) -> int:
        """Returns the highest number there is, or 0. Raises `StagingError`."""
        prefix = self.location.key("")

        def numbers() -> int:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.location.bucket, Prefix=prefix
            )
            names = (item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", []))
            return max((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), default=0)

        return objects.retrying(numbers, f"LIST {self.location.uri()}", stop)

    def download(self, number: int, target: Path, room_bytes: int, watchdog: Watchdog) -> None:
        """Writes a generation to the file `target`, for as long as `watchdog` lets it.

        Raises `StagingError`, and of these `CorruptObjectError` where the bytes are not those that were sent.
        Raises `OSError` for what is of the disk: it is full with `room_bytes`.
        """

        def get() -> tuple[str, str | None]:
            answer = self._client.get_object(
                Bucket=self.location.bucket, Key=self.location.key(_name(number))
            )
            digest = hashlib.sha256()
            with objects.body_of(answer) as body, target.open("wb") as file:
                if answer["ContentLength"] > room_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                while piece := watchdog.read(body):
                    digest.update(piece)
                    file.write(piece)
            return digest.hexdigest(), answer["Metadata"].get(DIGEST_METADATA)

        actual, sent = objects.retrying(get, f"GET {self.uri(number)}", watchdog.stopped)
        if actual != sent:
            raise CorruptObjectError(f"its SHA-256 is {actual}, and {sent or 'none'} when it was sent")

    def publish(self, number: int, archive: Path) -> bool:
        """Sends the file `archive` as a generation. Returns False where that generation exists already.

        Raises `StagingError`.
        """
        size = archive.stat().st_size
        if size > MAX_ARCHIVE_BYTES:
            raise StagingError(
                f"{self.uri(number)}: {size:,} bytes do not fit in one PUT; set staging.compile_cache to null"
            )
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()

        def put() -> bool:
            try:
                with archive.open("rb") as file:
                    self._client.put_object(
                        Bucket=self.location.bucket,
                        Key=self.location.key(_name(number)),
                        Body=file,
                        ContentType="application/gzip",
                        Metadata={DIGEST_METADATA: digest},
                        ChecksumAlgorithm="SHA256",
                        IfNoneMatch="*",
                    )
            except ClientError as error:
                if objects.status(error) in _LOST:
                    return False
                raise
            return True

        return objects.retrying(put, f"PUT {self.uri(number)}")


def _name(number: int) -> str:
    return f"{number:05}.tar.gz"
