from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, cast

import pytest
import urllib3
from urllib3.exceptions import ProtocolError

from serve_app.staging import objects
from serve_app.staging.watchdog import PIECE_BYTES, BrokenOffError, Watchdog
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import PATIENCE_S, Fault, FaultProxy

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

SIZE = PIECE_BYTES + 1000
# Beyond any patience: only the watchdog ends what takes as long.
SOCKET_TIMEOUT_S = 1000


@pytest.fixture
def stream(s3: S3, proxy: FaultProxy) -> BaseHTTPResponse:
    s3.client.put_object(Bucket=s3.bucket, Key="a", Body=bytes(SIZE))
    url = f"{proxy.endpoint}/{s3.bucket}/a"
    signed = s3.client.generate_presigned_url("get_object", Params={"Bucket": s3.bucket, "Key": "a"})
    url += "?" + signed.partition("?")[2]
    return urllib3.PoolManager(timeout=SOCKET_TIMEOUT_S).request("GET", url, preload_content=False)


def test_pieces_until_the_end(stream: BaseHTTPResponse) -> None:
    with Watchdog(SOCKET_TIMEOUT_S) as watchdog:
        pieces = list(iter(lambda: watchdog.read(stream), b""))
        assert [len(piece) for piece in pieces] == [PIECE_BYTES, 1000]
        assert watchdog.read(stream, 5) == b""


class TestSlow:
    """Answers that bring something now and then."""

    @pytest.fixture(autouse=True)
    def slow(self, proxy: FaultProxy) -> None:
        proxy.plan = lambda request: Fault(bytes_per_s=2000)

    def test_is_broken_off(self, stream: BaseHTTPResponse) -> None:
        start = time.monotonic()
        with (
            Watchdog(0.3) as watchdog,
            pytest.raises(BrokenOffError, match=r"less than 1,048,576 bytes in 0 s"),
        ):
            watchdog.read(stream)
        # At this pace, the whole takes nine minutes.
        assert 0.3 < time.monotonic() - start < 100

    def test_may_bring_small_pieces_in_time(self, stream: BaseHTTPResponse) -> None:
        with Watchdog(SOCKET_TIMEOUT_S) as watchdog:
            assert len(watchdog.read(stream, 100)) == 100

    def test_ends_at_once_when_nobody_wants_it_any_more(self, stream: BaseHTTPResponse) -> None:
        errors: list[BaseException] = []
        reading = threading.Event()

        def read() -> None:
            try:
                watchdog.read(stream, 1)
                reading.set()
                watchdog.read(stream)
            except BrokenOffError as error:
                errors.append(error)

        with Watchdog(SOCKET_TIMEOUT_S) as watchdog:
            thread = threading.Thread(target=read)
            thread.start()
            assert reading.wait(PATIENCE_S)
            watchdog.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
            assert len(errors) == 1
            with pytest.raises(BrokenOffError):
                watchdog.read(stream)


class TestReset:
    @pytest.fixture(autouse=True)
    def reset(self, proxy: FaultProxy) -> None:
        proxy.plan = lambda request: Fault(reset_at=1000)

    def test_other_errors_stay_what_they_are(self, stream: BaseHTTPResponse) -> None:
        with Watchdog(SOCKET_TIMEOUT_S) as watchdog, pytest.raises(ProtocolError):
            watchdog.read(stream)


class TestClosed:
    @pytest.fixture(autouse=True)
    def close(self, proxy: FaultProxy) -> None:
        proxy.plan = lambda request: Fault(close_at=1000)

    def test_a_body_that_ends_too_soon(self, s3: S3) -> None:
        # botocore's clients tell urllib3 to let that pass.
        s3.client.put_object(Bucket=s3.bucket, Key="a", Body=bytes(SIZE))
        answer = objects.new_client().get_object(Bucket=s3.bucket, Key="a")
        with Watchdog(SOCKET_TIMEOUT_S) as watchdog, answer["Body"] as body:
            stream = cast("BaseHTTPResponse", body)
            assert len(watchdog.read(stream)) == 1000
            with pytest.raises(ProtocolError, match="1,048,576 bytes of the answer are missing"):
                watchdog.read(stream)
