"""The files of a version from S3: ranges in parallel, each chunk verified while it arrives."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from serve_app.staging import objects
from serve_app.staging.errors import CorruptObjectError, StagingError
from serve_app.staging.manifest import READ_BYTES
from serve_app.staging.objects import Backoff, S3Location
from serve_app.staging.partial import PartialFile, PartialFolder, Range, raise_if_full

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

logger = logging.getLogger("ray.serve")

# A chunk that arrives wrong this often in a row is wrong in the bucket.
MAX_MISMATCHES = 3


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
        self._stopped = threading.Event()

    def run(self) -> None:
        """Returns when every chunk is verified and written.

        `on_bytes` hears of verified bytes, from several threads at once. Raises `StagingError`; then what was
        verified stays, and the next run goes on from there.
        """
        files = self._partial.files
        # What an earlier attempt has marked is read again, by all threads: cheap beside fetching it.
        self._each(self._recheck, ((file, chunk) for file in files for chunk in file.verified_chunks()))
        self._each(self._fetch, (part for file in files for part in file.missing(self._range_bytes)))

    def _each(self, work: Callable[..., None], items: Iterable[object]) -> None:
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="staging") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # Also on Ctrl-C: threads that fetch leave at their next piece.
                if not all(future.done() for future in futures):
                    self._stopped.set()
                    pool.shutdown(cancel_futures=True)
        for future in futures:
            if not future.cancelled() and (error := future.exception()):
                if isinstance(error, OSError):
                    raise_if_full(error, self._partial.folder, self._partial.manifest)
                raise error

    def _recheck(self, item: tuple[PartialFile, int]) -> None:
        file, chunk = item
        if not self._stopped.is_set() and file.still_verified(chunk):
            self._on_bytes(Range(file, chunk, chunk + 1).size_bytes)

    def _fetch(self, part: Range) -> None:
        """One range, with as many requests as it takes; each goes on behind the last verified chunk."""
        uri = self._location.uri(part.file.entry.path)
        backoff, num_mismatches = Backoff(self._stopped), 0
        while part.first_chunk < part.end_chunk and not self._stopped.is_set():
            before = part.first_chunk
            try:
                part = self._request(part)
                problem = f"{part.size_bytes:,} bytes of the answer are missing" if part.size_bytes else ""
            except _MismatchError as error:
                part, problem = error.part, str(error)
                num_mismatches = 1 if part.first_chunk > before else num_mismatches + 1
                if num_mismatches == MAX_MISMATCHES:
                    raise CorruptObjectError(
                        f"{uri}: {problem}, {MAX_MISMATCHES} times. The object was changed or damaged "
                        "after it was published: publish this version again, and give versions prefixes of "
                        "their own"
                    ) from None
            except _BrokenError as error:
                part, problem = error.part, str(error.cause)
                if not objects.is_transient(error.cause):
                    raise _explained(error.cause, uri) from error.cause
            if part.first_chunk > before:
                backoff.reset()
            if problem and not self._stopped.is_set():
                logger.warning("%s, byte %d: %s; trying again", uri, part.offset, problem)
                if not backoff.wait() and not self._stopped.is_set():
                    raise StagingError(
                        f"{uri}: {problem}, {backoff.num_failures} times in a row without progress; check "
                        "the network and AWS_ENDPOINT_URL, then start again: what has arrived is kept"
                    )

    def _request(self, part: Range) -> Range:
        """One GET. Returns what it left to do: nothing, or the rest of an answer that was too short."""
        file, offset, left = part.file, part.offset, part.size_bytes
        try:
            response = self._client.get_object(
                Bucket=self._location.bucket,
                Key=self._location.key(file.entry.path),
                Range=f"bytes={offset}-{offset + left - 1}",
            )
            with closing(response["Body"]) as body:
                while left and not self._stopped.is_set():
                    digest, in_chunk = hashlib.sha256(), min(file.chunk_bytes, left)
                    while in_chunk and (piece := body.read(min(in_chunk, READ_BYTES))):
                        digest.update(piece)
                        file.write(piece, offset)
                        in_chunk, offset = in_chunk - len(piece), offset + len(piece)
                    if in_chunk:
                        return part
                    if digest.hexdigest() != file.entry.chunks[part.first_chunk]:
                        raise _MismatchError(part)
                    done = Range(file, part.first_chunk, part.first_chunk + 1)
                    file.mark(part.first_chunk)
                    part = Range(file, part.first_chunk + 1, part.end_chunk)
                    left -= done.size_bytes
                    self._on_bytes(done.size_bytes)
        except (ClientError, BotoCoreError) as error:
            raise _BrokenError(part, error) from error
        return part


def _explained(error: ClientError | BotoCoreError, uri: str) -> StagingError:
    if isinstance(error, ClientError) and objects.status(error) in (404, 416):
        return CorruptObjectError(
            f"{uri} is missing or shorter than its manifest says ({error}): publish this version again"
        )
    return objects.explained(error, f"GET {uri}")


class _MismatchError(Exception):
    """A chunk arrived with other bytes. `part` is what is left to do, that chunk first."""

    def __init__(self, part: Range) -> None:
        end = part.offset + Range(part.file, part.first_chunk, part.first_chunk + 1).size_bytes
        super().__init__(f"bytes {part.offset:,} to {end:,} do not have the published SHA-256")
        self.part = part


class _BrokenError(Exception):
    """A request failed. `part` is what is left to do."""

    def __init__(self, part: Range, cause: ClientError | BotoCoreError) -> None:
        super().__init__()
        self.part = part
        self.cause = cause
