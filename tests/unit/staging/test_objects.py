from __future__ import annotations

import threading
import time

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from urllib3.exceptions import ProtocolError, SSLError

from serve_app.config.source import Source
from serve_app.staging import objects
from serve_app.staging.errors import StagingError
from serve_app.staging.objects import Backoff, S3Location, explained, is_transient, new_client, retrying


def client_error(status: int, code: str) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "No."}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "GetObject",
    )


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://bucket/prefix", "bucket", "prefix"),
        ("s3://bucket/a/b/c", "bucket", "a/b/c"),
        ("s3://bucket/a/b/", "bucket", "a/b"),
    ],
)
def test_locations(uri: str, bucket: str, prefix: str) -> None:
    location = S3Location.parse(uri)
    assert location == S3Location(bucket, prefix)
    assert location.uri() == uri.rstrip("/")
    assert location.key("x/y") == f"{prefix}/x/y"
    assert location.uri("x/y") == f"s3://{bucket}/{prefix}/x/y"
    assert location.name == prefix.rsplit("/", 1)[-1]
    assert S3Location.of(Source.parse(uri)) == location
    assert location.below("x") == S3Location(bucket, f"{prefix}/x")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///a",
        "s3://bucket/a//b",
        "S3://a/b",
        "bucket/a",
        "hf:a/b",
    ],
)
def test_what_is_no_location(uri: str) -> None:
    with pytest.raises(ValueError, match="is not s3://BUCKET/PREFIX"):
        S3Location.parse(uri)


@pytest.mark.parametrize(
    "error",
    [
        client_error(500, "InternalError"),
        client_error(503, "SlowDown"),
        client_error(503, ""),
        client_error(429, ""),
        client_error(400, "RequestTimeout"),
        client_error(400, "ThrottlingException"),
        EndpointConnectionError(endpoint_url="http://a"),
        ConnectionClosedError(endpoint_url="http://a"),
        ReadTimeoutError(endpoint_url="http://a"),
        IncompleteReadError(actual_bytes=1, expected_bytes=2),
        ProtocolError("broken"),
        SSLError("bad record mac"),
    ],
)
def test_what_may_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (client_error(403, "AccessDenied"), "the credentials in use may not do that; see the policy"),
        (client_error(401, ""), "the credentials in use may not do that"),
        (client_error(403, "RequestTimeTooSkewed"), "set the clock of this machine"),
        (client_error(400, "ExpiredToken"), "give the node an instance profile"),
        (NoCredentialsError(), "give the node an instance profile, or set AWS_PROFILE"),
        (CredentialRetrievalError(provider="p", error_msg="m"), "give the node an instance profile"),
        (client_error(404, "NoSuchBucket"), "check bucket and prefix, or publish it"),
        (client_error(301, "PermanentRedirect"), "check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"),
        (ParamValidationError(report="r"), "check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"),
    ],
)
def test_what_does_not_pass(error: Exception, advice: str) -> None:
    assert not is_transient(error)
    explanation = explained(error, "GET s3://bucket/key")
    assert type(explanation) is StagingError
    assert str(explanation).startswith(f"GET s3://bucket/key: {error}; {advice}")


def test_what_did_not_pass_in_time() -> None:
    assert "check the network and AWS_ENDPOINT_URL, then start again" in str(
        explained(client_error(503, "SlowDown"), "GET a")
    )


class Failing:
    """Fails so many times, and then returns how often it was called."""

    def __init__(self, num_failures: int, error: Exception) -> None:
        self.num_calls = 0
        self._num_failures = num_failures
        self._error = error

    def __call__(self) -> int:
        self.num_calls += 1
        if self.num_calls <= self._num_failures:
            raise self._error
        return self.num_calls


def test_another_try() -> None:
    call = Failing(objects.MAX_ATTEMPTS - 1, client_error(503, "SlowDown"))
    assert retrying(call, "GET a") == objects.MAX_ATTEMPTS


def test_enough_tries() -> None:
    call = Failing(1000, client_error(503, "SlowDown"))
    with pytest.raises(StagingError, match=r"GET a: .*SlowDown"):
        retrying(call, "GET a")
    assert call.num_calls == objects.MAX_ATTEMPTS


def test_no_second_try_for_what_does_not_pass() -> None:
    call = Failing(1, client_error(403, "AccessDenied"))
    with pytest.raises(StagingError):
        retrying(call, "GET a")
    assert call.num_calls == 1


def test_delays_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_DELAY_S", 0.2)
    monkeypatch.setattr(objects, "MAX_DELAY_S", 20.0)
    waited: list[float] = []

    class Recorded(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    for _ in range(20):
        backoff = Backoff(Recorded())
        while backoff.wait():
            pass
    rounds = [waited[start : start + 9] for start in range(0, len(waited), 9)]
    assert len(waited) == 20 * (objects.MAX_ATTEMPTS - 1)
    for delays in rounds:
        assert 0.2 <= delays[0] <= 0.4
        assert all(10 <= delay <= 20 for delay in delays[-2:])
        assert 40 < sum(delays) < 90
    assert len(set(waited)) == len(waited)


def test_being_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_DELAY_S", 1000.0)
    monkeypatch.setattr(objects, "MAX_DELAY_S", 1000.0)
    stop = threading.Event()
    call = Failing(1000, client_error(503, "SlowDown"))
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(StagingError):
        retrying(call, "GET a", stop)
    # Not the thousand seconds before the next try.
    assert time.monotonic() - start < 100
    assert call.num_calls == 1
    timer.join()


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("AWS_PROFILE", "no-such-profile", "set AWS_PROFILE"),
        ("AWS_ENDPOINT_URL", "no-address", "check AWS_ENDPOINT_URL"),
    ],
)
def test_settings_that_cannot_be_used(
    name: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv(name, value)
    with pytest.raises(StagingError) as caught:
        new_client()
    assert value in str(caught.value)
    assert remedy in str(caught.value)
