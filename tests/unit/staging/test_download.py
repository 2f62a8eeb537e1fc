from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from serve_app.staging import objects
from serve_app.staging.download import Download
from serve_app.staging.errors import CorruptObjectError, StagingError
from serve_app.staging.partial import PartialFolder
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, PATIENCE_S, Exchange, Fault, FaultProxy
from tests.unit.staging.versions import (
    CHUNK_BYTES,
    NUM_RANGES,
    RANGE_BYTES,
    SIZES,
    SMALL,
    Version,
    all_chunks,
    asked_for,
    put,
    random_content,
)


class Counted:
    """Bytes as `on_bytes` hears of them, from any thread."""

    def __init__(self) -> None:
        self.total = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self.total += count
            self.threads.add(threading.get_ident())


def download(version: Version, folder: Path, concurrency: int = 4) -> Counted:
    counted = Counted()
    with PartialFolder(folder, version.manifest) as partial:
        client = objects.new_client(concurrency)
        Download(
            client,
            version.location,
            partial,
            range_bytes=RANGE_BYTES,
            concurrency=concurrency,
            on_bytes=counted,
        ).run()
        assert not [part for file in partial.files for part in file.missing(1)]
    for path, data in version.content.items():
        assert (folder / "files" / path).read_bytes() == data
    return counted


def requests(exchanges: list[Exchange]) -> set[tuple[str, int | None, int | None]]:
    return {
        (exchange.request.path.rsplit("/", 1)[-1], exchange.request.first_byte, exchange.request.last_byte)
        for exchange in exchanges
    }


def test_one_request_for_each_range(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    counted = download(version, tmp_path)
    assert len(proxy.gets()) == NUM_RANGES
    assert sum(exchange.sent_bytes for exchange in proxy.gets()) == version.manifest.total_bytes
    assert requests(proxy.gets("b.safetensors")) == {
        ("b.safetensors", start, min(start + RANGE_BYTES, SIZES["b.safetensors"]) - 1)
        for start in range(0, SIZES["b.safetensors"], RANGE_BYTES)
    }
    assert counted.total == version.manifest.total_bytes


def test_connections_are_kept(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    download(version, tmp_path, concurrency=3)
    assert 1 <= proxy.num_connections <= 3


def test_ranges_arrive_in_parallel(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def plan(_: object) -> Fault:
        # Broken, and so an error of the proxy's, unless four requests are under way at once.
        if len(proxy.gets()) <= 4:
            barrier.wait(PATIENCE_S)
        return OK

    proxy.plan = plan
    assert len(download(version, tmp_path, concurrency=4).threads) == 4


@pytest.mark.parametrize("seed", range(5))
def test_only_what_is_missing_is_fetched(
    version: Version, proxy: FaultProxy, tmp_path: Path, seed: int
) -> None:
    numbers = random.Random(seed)
    present = set()
    with PartialFolder(tmp_path, version.manifest) as partial:
        for file in partial.files:
            data = version.content[file.entry.path]
            for chunk in range(len(file.entry.chunks)):
                if numbers.random() < 0.5:
                    start = chunk * CHUNK_BYTES
                    file.write(data[start : start + CHUNK_BYTES], start)
                    file.mark(chunk)
                    present.add((file.entry.path, chunk))
    counted = download(version, tmp_path)
    asked = asked_for(version, (exchange.request for exchange in proxy.gets()))
    assert asked == all_chunks(version) - present
    # Progress begins with what is there.
    assert counted.total == version.manifest.total_bytes


def test_marks_without_bytes_are_fetched_again(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    with PartialFolder(tmp_path, version.manifest) as partial:
        for file in partial.files:
            for chunk in range(len(file.entry.chunks)):
                file.mark(chunk)  # with zeros on disk, as a power loss may leave it
    counted = download(version, tmp_path)
    assert asked_for(version, (exchange.request for exchange in proxy.gets())) == all_chunks(version)
    assert counted.total == version.manifest.total_bytes


class TestChangedInTheBucket:
    """What nobody can repair but the publisher fails soon, and says which object it is."""

    @pytest.fixture
    def version(self, s3: S3) -> Version:
        return put(s3, random_content(0, SMALL))

    def failure(self, version: Version, folder: Path) -> CorruptObjectError:
        with pytest.raises(CorruptObjectError) as caught:
            download(version, folder)
        message = str(caught.value)
        assert f"{version.location.uri()}/model.safetensors" in message
        assert "publish this version again" in message
        assert not list(folder.glob("*-*"))
        return caught.value

    def put(self, s3: S3, version: Version, data: bytes) -> None:
        s3.client.put_object(Bucket=s3.bucket, Key=version.location.key("model.safetensors"), Body=data)

    def test_one_byte(self, s3: S3, version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
        data = bytearray(version.content["model.safetensors"])
        data[CHUNK_BYTES + 5] ^= 1
        self.put(s3, version, bytes(data))
        message = str(self.failure(version, tmp_path))
        assert f"bytes {CHUNK_BYTES:,} to {2 * CHUNK_BYTES:,} do not have the published SHA-256" in message
        # The chunk was asked for three times, what came before it once.
        starts = [exchange.request.first_byte for exchange in proxy.gets("model.safetensors")]
        assert starts == [0, CHUNK_BYTES, CHUNK_BYTES]

    @pytest.mark.parametrize("size", [0, 10, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
    def test_shorter(self, s3: S3, version: Version, proxy: FaultProxy, tmp_path: Path, size: int) -> None:
        self.put(s3, version, version.content["model.safetensors"][:size])
        self.failure(version, tmp_path)
        assert len(proxy.gets("model.safetensors")) == 1

    def test_longer(self, s3: S3, version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
        self.put(s3, version, version.content["model.safetensors"] + b"more")
        assert "has 49,156 bytes and its manifest says 49,152" in str(self.failure(version, tmp_path))
        assert len(proxy.gets("model.safetensors")) == 1

    def test_missing(self, s3: S3, version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
        s3.client.delete_object(Bucket=s3.bucket, Key=version.location.key("model.safetensors"))
        assert "is missing" in str(self.failure(version, tmp_path))
        assert len(proxy.gets("model.safetensors")) == 1


def test_an_error_ends_the_other_ranges_at_once(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    # All others hang for as long as a socket may; nobody waits for that.
    proxy.plan = lambda request: Fault(
        **({"status": 403, "code": "AccessDenied"} if request.first_byte == RANGE_BYTES else {"stall_at": 1})
    )
    with pytest.raises(StagingError, match="the credentials in use may not do that"):
        download(version, tmp_path)
    assert len(proxy.gets()) <= 8


def test_a_server_that_ignores_ranges(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.plan = lambda request: Fault(ignore_range=request.attempt <= 2)
    download(version, tmp_path)
    assert [exchange.status for exchange in proxy.gets()].count(206) == NUM_RANGES


def test_a_server_that_never_answers_with_ranges(
    version: Version, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_ATTEMPTS", 2)
    proxy.plan = lambda request: Fault(ignore_range=True)
    with pytest.raises(StagingError) as caught:
        download(version, tmp_path)
    assert "sends the whole object, 2 times in a row" in str(caught.value)
    assert "AWS_ENDPOINT_URL" in str(caught.value)
