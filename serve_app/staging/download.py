"""The files of a version from S3: ranges in parallel, each chunk verified while it arrives."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from serve_app.staging import objects
from serve_app.staging.errors import CorruptObjectError, StagingError
from serve_app.staging.objects import Backoff, S3Location
from serve_app.staging.partial import PartialFile, PartialFolder, Range, raise_if_full
from serve_app.staging.watchdog import Watchdog

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef

logger = logging.getLogger("ray.serve")

# A chunk that arrives wrong this often in a row is wrong in the bucket.
MAX_MISMATCHES = 3
_AGAIN = "publish this version again, and give versions prefixes of their own"


class Download:
    """Fetches what a partial folder lacks. To be run once."""

    def __init__(
        self,
        client: S3Client,
        location: S3Location,
        partial: PartialFolder,
        *,
        range_bytes: int,
        concurrency: int,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._client = client
        self._location = location
        self._partial = partial
        self._range_bytes = range_bytes
        self._concurrency = concurrency
        self._on_bytes = on_bytes
        self._watchdog = Watchdog(objects.READ_TIMEOUT_S)

    def run(self) -> None:
        """Returns when every chunk is verified and written.

        `on_bytes` hears of verified bytes, from several threads at once. Raises `StagingError`; then what was
        verified stays, and the next run goes on from there.
        """
        files = self._partial.files
        with self._watchdog:
            # What an earlier attempt has marked is read again, by all threads: cheap beside fetching it.
            self._each(self._recheck, ((file, chunk) for file in files for chunk in file.verified_chunks()))
            self._each(self._fetch, (part for file in files for part in file.missing(self._range_bytes)))

    def _each(self, work: Callable[..., None], items: Iterable[object]) -> None:
        futures: list[Future[None]] = []
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="staging") as pool:
            try:
                futures.extend(pool.submit(work, item) for item in items)
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # Ctrl-C
                self._stop(pool)
                raise
            if not all(future.done() for future in futures):
                self._stop(pool)
        for future in futures:
            if not future.cancelled() and (error := future.exception()):
                if isinstance(error, OSError):
                    raise_if_full(error, self._partial.folder, self._partial.manifest)
                raise error

    def _stop(self, pool: ThreadPoolExecutor) -> None:
        """Ends what has begun, reads from the network at once, and begins nothing more."""
        self._watchdog.stop()
        pool.shutdown(cancel_futures=True)

    def _recheck(self, item: tuple[PartialFile, int]) -> None:
        file, chunk = item
        if not self._watchdog.stopped.is_set() and file.still_verified(chunk):
            self._on_bytes(Range(file, chunk, chunk + 1).size_bytes)

    def _fetch(self, part: Range) -> None:
        """One range, with as many requests as it takes; each goes on behind the last verified chunk."""
        uri, stopped = self._location.uri(part.file.entry.path), self._watchdog.stopped
        backoff, num_mismatches = Backoff(stopped), 0
        while part.first_chunk < part.end_chunk and not stopped.is_set():
            before = part.first_chunk
            try:
                part = self._request(part, uri)
                continue
            except _UnfinishedError as error:
                part, problem = error.part, str(error)
                if isinstance(error, _MismatchError):
                    num_mismatches = 1 if part.first_chunk > before else num_mismatches + 1
            if num_mismatches == MAX_MISMATCHES:
                raise CorruptObjectError(
                    f"{uri}: {problem}, {MAX_MISMATCHES} times; the object was changed or damaged after it "
                    f"was published: {_AGAIN}"
                )
            if part.first_chunk > before:
                backoff.reset()
            if not stopped.is_set():
                logger.warning("%s, byte %d: %s; trying again", uri, part.offset, problem)
                if not backoff.wait() and not stopped.is_set():
                    raise StagingError(
                        f"{uri}: {problem}, {backoff.num_failures} times in a row without progress; check "
                        "the network and AWS_ENDPOINT_URL, then start again: what has arrived is kept"
                    )

    def _request(self, part: Range, uri: str) -> Range:
        """One GET. Returns the empty rest of `part`, or raises `_UnfinishedError` with what is left to do."""
        file, offset, left = part.file, part.offset, part.size_bytes
        last = offset + left - 1
        try:
            answer = self._client.get_object(
                Bucket=self._location.bucket,
                Key=self._location.key(file.entry.path),
                Range=f"bytes={offset}-{last}",
            )
            with objects.body_of(answer) as body:
                _check_range(answer, part, uri, f"bytes {offset}-{last}/{file.entry.size_bytes}")
                while left and not self._watchdog.stopped.is_set():
                    digest, in_chunk = hashlib.sha256(), min(file.chunk_bytes, left)
                    while in_chunk and (piece := self._watchdog.read(body, in_chunk)):
                        digest.update(piece)
                        file.write(piece, offset)
                        in_chunk, offset = in_chunk - len(piece), offset + len(piece)
                    if in_chunk:
                        raise _UnfinishedError(part, f"{part.size_bytes:,} bytes of the answer are missing")
                    done = Range(file, part.first_chunk, part.first_chunk + 1)
                    if digest.hexdigest() != file.entry.chunks[part.first_chunk]:
                        raise _MismatchError(
                            part,
                            f"bytes {done.offset:,} to {offset:,} do not have the published SHA-256",
                        )
                    file.mark(part.first_chunk)
                    part = Range(file, part.first_chunk + 1, part.end_chunk)
                    left -= done.size_bytes
                    self._on_bytes(done.size_bytes)
        except objects.S3_ERRORS as error:
            if isinstance(error, ClientError) and objects.status(error) in (404, 416):
                raise CorruptObjectError(
                    f"{uri} is missing or shorter than its manifest says ({error}): {_AGAIN}"
                ) from error
            if not objects.is_transient(error):
                raise objects.explained(error, f"GET {uri}") from error
            raise _UnfinishedError(part, str(error)) from error
        return part


def _check_range(answer: GetObjectOutputTypeDef, part: Range, uri: str, asked: str) -> None:
    """Raises unless the answer begins where it should, in an object of the published size."""
    found = answer.get("ContentRange", "the whole object")
    size = found.rpartition("/")[2]
    if size.isdigit() and int(size) != part.file.entry.size_bytes:
        raise CorruptObjectError(
            f"{uri} has {int(size):,} bytes and its manifest says {part.file.entry.size_bytes:,}: {_AGAIN}"
        )
    if found != asked:
        raise _UnfinishedError(part, f"asked for {asked}, S3 or a proxy before it sends {found}")


class _UnfinishedError(Exception):
    """A request that another may finish. `part` is what is left to do."""

    def __init__(self, part: Range, problem: str) -> None:
        super().__init__(problem)
        self.part = part


class _MismatchError(_UnfinishedError):
    """The first chunk of `part` arrived with other bytes."""
