"""Downloads through a proxy that breaks them: the result is right, or an error that says what to do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve_app.staging import objects
from serve_app.staging.download import MAX_MISMATCHES
from serve_app.staging.errors import CorruptObjectError, StagingError
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, Fault, FaultProxy, Request
from tests.unit.staging.versions import (
    CHUNK_BYTES,
    RANGE_BYTES,
    SMALL,
    Version,
    assert_complete,
    marked,
    put,
    random_content,
    stage,
)

IN_THE_SECOND_CHUNK = CHUNK_BYTES + 5


def at_first(fault: Fault, num_attempts: int = 1) -> Callable[[Request], Fault]:
    """The fault happens to the first attempts at everything, the manifest too."""
    return lambda request: fault if request.attempt <= num_attempts else OK


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(at_first(Fault(reset_before_answer=True)), id="reset before the answer"),
        pytest.param(at_first(Fault(reset_in_head=True)), id="reset within the headers"),
        pytest.param(at_first(Fault(reset_at=0)), id="reset before the body"),
        pytest.param(at_first(Fault(reset_at=IN_THE_SECOND_CHUNK)), id="reset within the body"),
        pytest.param(at_first(Fault(reset_at=CHUNK_BYTES)), id="reset between chunks"),
        pytest.param(at_first(Fault(reset_at=RANGE_BYTES - 1)), id="reset before the last byte"),
        pytest.param(at_first(Fault(reset_at=RANGE_BYTES)), id="reset after the body"),
        pytest.param(at_first(Fault(close_at=0)), id="closed before the body"),
        pytest.param(at_first(Fault(close_at=IN_THE_SECOND_CHUNK)), id="closed within the body"),
        pytest.param(at_first(Fault(close_at=RANGE_BYTES)), id="closed after the body"),
        pytest.param(at_first(Fault(shorten_by=1)), id="a byte less, and Content-Length says so"),
        pytest.param(at_first(Fault(shorten_by=RANGE_BYTES)), id="nothing, and Content-Length says so"),
        pytest.param(at_first(Fault(flip_at=0)), id="first byte flipped"),
        pytest.param(at_first(Fault(flip_at=IN_THE_SECOND_CHUNK)), id="byte in the middle flipped"),
        pytest.param(at_first(Fault(flip_at=RANGE_BYTES - 1)), id="last byte flipped"),
        pytest.param(at_first(Fault(status=500, code="InternalError"), 4), id="burst of 500"),
        pytest.param(at_first(Fault(status=503, code="SlowDown"), 4), id="burst of 503"),
        pytest.param(at_first(Fault(status=503), 4), id="burst of 503 without a code"),
        pytest.param(at_first(Fault(status=429, code="TooManyRequests"), 4), id="burst of 429"),
        pytest.param(at_first(Fault(status=400, code="RequestTimeout"), 4), id="burst of RequestTimeout"),
        pytest.param(at_first(Fault(delay_s=0.05)), id="late answers"),
    ],
)
def test_staging_gets_over(
    version: Version, proxy: FaultProxy, tmp_path: Path, plan: Callable[[Request], Fault]
) -> None:
    proxy.plan = plan
    staged = stage(version, tmp_path)
    assert_complete(staged.path, version)
    assert [path.name for path in (tmp_path / ".partial").iterdir()] == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(close_at=IN_THE_SECOND_CHUNK),
        Fault(shorten_by=RANGE_BYTES - IN_THE_SECOND_CHUNK),
        Fault(flip_at=IN_THE_SECOND_CHUNK),
    ],
)
def test_a_request_goes_on_behind_the_last_verified_chunk(
    version: Version, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    proxy.plan = lambda request: fault if request.first_byte == 0 and request.attempt == 1 else OK
    stage(version, tmp_path)
    starts = [exchange.request.first_byte for exchange in proxy.gets("b.safetensors")]
    assert starts.count(0) == 1
    assert starts.count(CHUNK_BYTES) == 1


def test_connections_are_reset_as_soon_as_they_are_made(
    version: Version, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.refuse = lambda connection: connection <= 6
    assert_complete(stage(version, tmp_path).path, version)
    assert proxy.num_connections > 6


@pytest.mark.parametrize(
    "fault",
    [Fault(stall_at=0), Fault(stall_at=IN_THE_SECOND_CHUNK), Fault(bytes_per_s=20), Fault(delay_s=1000)],
)
def test_a_connection_that_brings_nothing_or_too_little_is_given_up(
    version: Version,
    proxy: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setattr(objects, "READ_TIMEOUT_S", 0.4)
    is_slow = {("a.safetensors", RANGE_BYTES), ("b.safetensors", 0), ("manifest.json", None)}
    proxy.plan = lambda request: (
        fault
        if (request.path.rsplit("/", 1)[-1], request.first_byte) in is_slow and request.attempt == 1
        else OK
    )
    start = time.monotonic()
    assert_complete(stage(version, tmp_path).path, version)
    # It would bring what was asked for after ten minutes at the earliest.
    assert time.monotonic() - start < 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_any_faults_in_any_order(version: Version, proxy: FaultProxy, tmp_path: Path, seed: int) -> None:
    def plan(request: Request) -> Fault:
        numbers = random.Random(f"{seed} {request.path} {request.first_byte} {request.attempt}")
        if numbers.random() < 0.5:
            return OK
        at = numbers.randrange(RANGE_BYTES)
        return numbers.choice(
            [
                Fault(reset_before_answer=True),
                Fault(reset_in_head=True),
                Fault(reset_at=at),
                Fault(close_at=at),
                Fault(shorten_by=at),
                Fault(flip_at=at),
                Fault(ignore_range=True),
                Fault(status=500, code="InternalError"),
                Fault(status=503, code="SlowDown"),
            ]
        )

    proxy.plan = plan
    try:
        staged = stage(version, tmp_path)
    except StagingError:
        # More bad luck than an attempt endures: another one goes on from there.
        assert not (tmp_path / version.folder_name).exists()
        present = marked(version, tmp_path)
        proxy.forget()
        proxy.plan = lambda request: OK
        staged = stage(version, tmp_path)
        assert not present & {
            (exchange.request.path.partition("tiny/")[2], (exchange.request.first_byte or 0) // CHUNK_BYTES)
            for exchange in proxy.gets()
        }
    assert_complete(staged.path, version)


# Attempts where each takes as long as a connection may be silent.
SLOW = 3


class TestFaultsWithoutEnd:
    """Each gives an error that names the object and says what to do, and leaves nothing with a final name."""

    @pytest.fixture
    def version(self, s3: S3) -> Version:
        return put(s3, random_content(0, SMALL))

    @pytest.fixture(autouse=True)
    def few_attempts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objects, "MAX_ATTEMPTS", 4)

    @pytest.mark.parametrize(
        ("fault", "kind", "problem", "remedy", "num_attempts"),
        [
            (Fault(reset_at=5), StagingError, "Connection broken", "check the network", 4),
            (Fault(close_at=5), StagingError, "bytes of the answer are missing", "check the network", 4),
            (
                Fault(shorten_by=2 * CHUNK_BYTES + 1),
                StagingError,
                "bytes of the answer are missing",
                "check the network",
                4,
            ),
            (Fault(stall_at=5), StagingError, "", "check the network", SLOW),
            (Fault(bytes_per_s=1000), StagingError, "", "check the network", SLOW),
            (Fault(status=503, code="SlowDown"), StagingError, "SlowDown", "check the network", 4),
            (Fault(status=500, code="InternalError"), StagingError, "InternalError", "check the network", 4),
            (
                Fault(status=403, code="AccessDenied"),
                StagingError,
                "AccessDenied",
                "the credentials in use",
                1,
            ),
            (Fault(status=400, code="ExpiredToken"), StagingError, "ExpiredToken", "instance profile", 1),
            (Fault(status=403, code="RequestTimeTooSkewed"), StagingError, "Skewed", "set the clock", 1),
            (
                Fault(status=400, code="InvalidRequest"),
                StagingError,
                "InvalidRequest",
                "check AWS_DEFAULT_REGION",
                1,
            ),
            (Fault(flip_at=5), CorruptObjectError, "SHA-256, 3 times", "publish this version again", 3),
            (
                Fault(status=404, code="NoSuchKey"),
                CorruptObjectError,
                "is missing",
                "publish this version",
                1,
            ),
        ],
    )
    def test_is_explained(
        self,
        version: Version,
        proxy: FaultProxy,
        tmp_path: Path,
        fault: Fault,
        kind: type[StagingError],
        problem: str,
        remedy: str,
        num_attempts: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if num_attempts == SLOW:
            monkeypatch.setattr(objects, "MAX_ATTEMPTS", SLOW)
            monkeypatch.setattr(objects, "READ_TIMEOUT_S", 0.5)
        proxy.plan = lambda request: (
            fault if request.first_byte == 0 and request.path.endswith("model.safetensors") else OK
        )
        with pytest.raises(kind) as caught:
            stage(version, tmp_path, concurrency=1)
        assert type(caught.value) is kind
        message = str(caught.value)
        assert f"{version.location.uri()}/model.safetensors" in message
        assert problem in message
        assert remedy in message
        assert "\n" not in message
        starts = [exchange.request.first_byte for exchange in proxy.gets("model.safetensors")]
        assert starts == [0] * num_attempts
        assert not list(tmp_path.glob(f"{version.location.name}-*"))
        # What has arrived is kept, and a better day continues.
        assert MAX_MISMATCHES == 3
        proxy.plan = lambda request: OK
        present = marked(version, tmp_path)
        assert present
        proxy.forget()
        assert_complete(stage(version, tmp_path).path, version)
        assert len(proxy.gets()) == 1

    def test_progress_is_no_failure(
        self, version: Version, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # More breaks in a range than attempts, and a chunk or more between each two.
        monkeypatch.setattr(objects, "MAX_ATTEMPTS", 2)
        proxy.plan = lambda request: Fault(close_at=CHUNK_BYTES + 1)
        assert_complete(stage(version, tmp_path).path, version)

    @pytest.mark.parametrize(
        "fault", [Fault(status=503, code="SlowDown"), Fault(flip_at=300), Fault(bytes_per_s=50)]
    )
    def test_the_manifest(
        self,
        version: Version,
        proxy: FaultProxy,
        tmp_path: Path,
        fault: Fault,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if fault.bytes_per_s:
            monkeypatch.setattr(objects, "MAX_ATTEMPTS", SLOW)
            monkeypatch.setattr(objects, "READ_TIMEOUT_S", 0.5)
        proxy.plan = lambda request: fault
        with pytest.raises(StagingError) as caught:
            stage(version, tmp_path)
        assert str(caught.value).startswith(f"GET {version.location.uri()}/manifest.json: ")
        assert "check the network and AWS_ENDPOINT_URL, then start again" in str(caught.value)
        assert len(proxy.log) == objects.MAX_ATTEMPTS

    def test_nobody_listens(
        self, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
        with pytest.raises(StagingError, match="check the network and AWS_ENDPOINT_URL"):
            stage(version, tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.mark.parametrize(
    "fault",
    [
        OK,
        Fault(reset_at=IN_THE_SECOND_CHUNK),
        Fault(close_at=IN_THE_SECOND_CHUNK),
        Fault(garble_at=IN_THE_SECOND_CHUNK),
        Fault(flip_at=IN_THE_SECOND_CHUNK),
        Fault(bytes_per_s=1000),
    ],
)
def test_faults_under_tls(
    version: Version,
    s3: S3,
    tmp_path: Path,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    if fault.bytes_per_s:
        monkeypatch.setattr(objects, "READ_TIMEOUT_S", 0.4)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    proxy = FaultProxy(s3.endpoint, context)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    proxy.plan = lambda request: fault if request.first_byte == 0 and request.attempt == 1 else OK
    assert_complete(stage(version, tmp_path).path, version)
    starts = [exchange.request.first_byte for exchange in proxy.gets("a.safetensors")]
    # Those two may lose what has arrived before.
    assert starts.count(0) == 1 or fault.bytes_per_s or fault.reset_at
    proxy.close()
