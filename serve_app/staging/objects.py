"""S3: addresses, the client, and which of its errors are worth another try."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import ConnectionError as CannotConnectError
from urllib3.exceptions import HTTPError

from serve_app.config.source import Source, SourceKind
from serve_app.staging.errors import StagingError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import GetObjectOutputTypeDef
    from urllib3.response import BaseHTTPResponse

logger = logging.getLogger("ray.serve")

# Where the metadata of an object says what it holds.
DIGEST_METADATA = "sha256"
# A connection that brings nothing for this long is given up, and its range asked for again.
READ_TIMEOUT_S = 20
CONNECT_TIMEOUT_S = 10
# The delays between them add up to a minute (43 to 85 s): longer than S3's bursts of 503 Slow Down.
MAX_ATTEMPTS = 10
FIRST_DELAY_S = 0.2
MAX_DELAY_S = 20.0

_TRANSIENT_CODES = {
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
# No connection; one that broke before the answer; a body that ended too soon, or broke in some other way.
_TRANSIENT = (CannotConnectError, HTTPClientError, IncompleteReadError, HTTPError)
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
)
# What requests to S3 and reading their answers may raise.
S3_ERRORS = (ClientError, BotoCoreError, HTTPError)

T = TypeVar("T")


@dataclass(frozen=True)
class S3Location:
    """A prefix in a bucket, without slashes at its ends."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> S3Location:
        """Returns the location that `s3://BUCKET/PREFIX` names; raises `ValueError` for anything else."""
        try:
            return cls.of(Source.parse(uri))
        except ValueError:
            raise ValueError(f"{uri!r} is not s3://BUCKET/PREFIX") from None

    @classmethod
    def of(cls, source: Source) -> S3Location:
        """Returns the location of a source of this kind; raises `ValueError` for others."""
        if source.kind is not SourceKind.S3:
            raise ValueError(f"{source} is not s3://BUCKET/PREFIX")
        bucket, _, prefix = source.location.rstrip("/").partition("/")
        return cls(bucket, prefix)

    def below(self, path: str) -> S3Location:
        """Returns the prefix `path` below this one."""
        return S3Location(self.bucket, self.key(path))

    def key(self, path: str) -> str:
        """Returns the key of the object `path` below the prefix."""
        return f"{self.prefix}/{path}"

    def uri(self, path: str = "") -> str:
        """Returns the address, of the prefix or of an object below it, for people."""
        return f"{SourceKind.S3.value}{self.bucket}/{self.prefix}" + (f"/{path}" if path else "")

    @property
    def name(self) -> str:
        """The last part of the prefix: what people call it."""
        return self.prefix.rsplit("/", 1)[-1]


def new_client(max_connections: int = 16, max_attempts: int = 1) -> S3Client:
    """Returns an S3 client with credentials, region and endpoint from boto3's usual chain.

    By default it tries nothing twice: `retrying` does, which can be told to stop. Raises `StagingError` where
    the settings say nothing that could be used.
    """
    config = Config(
        max_pool_connections=max_connections,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        # Every byte is checked against the manifest; CRCs besides would be a second pass over it.
        response_checksum_validation="when_required",
    )
    try:
        return boto3.client("s3", config=config)
    except BotoCoreError as error:
        raise explained(error, "an S3 client") from error
    except ValueError as error:
        raise StagingError(f"an S3 client: {error}; check AWS_ENDPOINT_URL") from error


def body_of(answer: GetObjectOutputTypeDef) -> AbstractContextManager[BaseHTTPResponse]:
    """Returns the body to read from, by a `Watchdog`, and to close: botocore's is urllib3's as a context."""
    return cast("AbstractContextManager[BaseHTTPResponse]", answer["Body"])


def status(error: ClientError) -> int:
    """Returns the HTTP status of S3's answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, ClientError):
        return status(error) >= 500 or status(error) == 429 or _code(error) in _TRANSIENT_CODES
    return isinstance(error, _TRANSIENT)


def _code(error: BaseException) -> str:
    return error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""


def explained(error: BaseException, what: str) -> StagingError:
    """Returns the error for people: what failed, why, and what to do. `error` is one of `S3_ERRORS`."""
    if isinstance(error, _NO_CREDENTIALS) or _code(error) == "ExpiredToken":
        advice = "give the node an instance profile, or set AWS_PROFILE or AWS_ACCESS_KEY_ID"
    elif _code(error) == "RequestTimeTooSkewed":
        advice = "set the clock of this machine"
    elif isinstance(error, ClientError) and status(error) in (401, 403):
        advice = "the credentials in use may not do that; see the policy in docs/operations.md"
    elif isinstance(error, ClientError) and status(error) == 404:
        advice = "check bucket and prefix, or publish it: python -m serve_app.stage publish"
    elif is_transient(error):
        advice = "check the network and AWS_ENDPOINT_URL, then start again: what has arrived is kept"
    else:
        advice = "check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"
    return StagingError(f"{what}: {error}; {advice}")


class Backoff:
    """Counts failures in a row, and waits after each: twice as long each time, half of it at random.

    That is "equal jitter". With "full jitter" the delays could be short by chance, and all attempts be spent
    within one burst of refusals.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self.num_failures = 0
        self._stop = stop or threading.Event()

    def wait(self) -> bool:
        """Counts a failure and waits. Returns False when enough has been tried, or when told to stop."""
        self.num_failures += 1
        if self.num_failures >= MAX_ATTEMPTS:
            return False
        longest = min(MAX_DELAY_S, FIRST_DELAY_S * 2**self.num_failures)
        # At random, so that the readers that were refused together do not come back together.
        return not self._stop.wait(random.uniform(longest / 2, longest))

    def reset(self) -> None:
        """Something has succeeded."""
        self.num_failures = 0


def retrying(call: Callable[[], T], what: str, stop: threading.Event | None = None) -> T:
    """Returns what `call` returns, trying again after transient errors.

    `what` says what is done, with the object's address. Raises `StagingError` for what does not pass.
    """
    backoff = Backoff(stop)
    while True:
        try:
            return call()
        except S3_ERRORS as error:
            if not is_transient(error) or not backoff.wait():
                raise explained(error, what) from error
            logger.warning("%s: %s; trying again", what, error)
