"""A cache that cannot be had or published is never in the way: the engine compiles."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.staging import cache_folder, compile_cache, objects
from tests.unit.staging.caches import (
    COMPILED,
    Node,
    content_of,
    objects_in,
    on,
    publish,
    put,
    warnings,
    write,
)
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, Fault, FaultProxy, Plan
from tests.unit.staging.test_archives import MALICIOUS, make_tar, malicious, member


def damaged(content: bytes, how: str) -> bytes:
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "flipped":
        return content[:200] + bytes([content[200] ^ 1]) + content[201:]
    return {"empty": b"", "no archive": b"<html>" * 100, "gzip of nothing": content[:10]}[how]


HOW = ["truncated", "flipped", "empty", "no archive", "gzip of nothing"]


@pytest.mark.parametrize("is_checksum_right", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_damaged_archives(
    node: Node, s3: S3, log: pytest.LogCaptureFixture, how: str, is_checksum_right: bool
) -> None:
    publish(node.started(COMPILED))
    key = objects_in(s3)[0]
    answer = s3.client.get_object(Bucket=s3.bucket, Key=key)
    content = damaged(answer["Body"].read(), how)
    digest = None if is_checksum_right else answer["Metadata"]["sha256"]
    node.replaced()
    cache = node.cache()
    put(s3, cache, 1, content, digest)
    cache.restore()
    assert content_of(cache) == {}
    assert [path.name for path in cache.folder.path.iterdir()] == []
    (warning,) = warnings(log)
    assert f"s3://{s3.bucket}/{key}" in warning
    assert "delete it" in warning
    # The engine compiles, and what it publishes takes the place of the damaged one.
    write(cache, COMPILED)
    publish(cache)
    node.replaced()
    assert content_of(node.started()) == COMPILED


@pytest.mark.parametrize("metadata", [{}, {"sha256": "0" * 64}])
def test_whole_archives_that_are_not_what_was_sent(
    node: Node, s3: S3, log: pytest.LogCaptureFixture, metadata: dict[str, str]
) -> None:
    cache = node.cache()
    content = make_tar(node.folder.parent / "a", member("vllm/a")).read_bytes()
    key = f"caches/{cache.key}/00001.tar.gz"
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=content, Metadata=metadata)
    cache.restore()
    assert content_of(cache) == {}
    assert "SHA-256" in warnings(log)[0]


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_archives(node: Node, s3: S3, log: pytest.LogCaptureFixture, name: str) -> None:
    cache = node.cache()
    bad = malicious(name, node.folder.parent)
    put(s3, cache, 1, make_tar(node.folder.parent / "a", member("vllm/first"), bad).read_bytes())
    cache.restore()
    assert content_of(cache) == {}
    assert {path.name for path in node.folder.parent.iterdir()} == {"a", "staged"}
    assert len(warnings(log)) == 1


@pytest.mark.parametrize("path", ["generation.json", "elsewhere/a", "vllm/startup_plan/plan.json", "vllm"])
def test_files_that_are_of_no_cache(node: Node, s3: S3, log: pytest.LogCaptureFixture, path: str) -> None:
    cache = node.cache()
    archive = make_tar(node.folder.parent / "a", member("triton/a"), member(path))
    put(s3, cache, 1, archive.read_bytes())
    cache.restore()
    assert content_of(cache) == {}
    assert len(warnings(log)) == 1


def test_an_archive_that_the_disk_cannot_hold(
    node: Node, s3: S3, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    monkeypatch.setattr(compile_cache, "RESERVE_BYTES", shutil.disk_usage("/").total * 1000)
    cache = node.started()
    assert content_of(cache) == {}
    (warning,) = warnings(log)
    assert f"the disk of {cache.folder.path} is full" in warning
    assert "make room" in warning
    # The archive may be whole, and what this engine compiles no news.
    write(cache, COMPILED)
    assert cache.publish() is None


class TestFullDisk:
    """On a file system of its own, with as little free as a test wants."""

    @pytest.fixture
    def disk(self, small_disk: Callable[[int], Path]) -> Path:
        return small_disk(256 * 1024)

    @pytest.fixture
    def small_node(self, disk: Path, s3: S3, quick_publisher: None, monkeypatch: pytest.MonkeyPatch) -> Node:
        """A node on that disk, and its caches are in S3."""
        monkeypatch.setattr(compile_cache, "RESERVE_BYTES", 0)
        node = Node(disk / "staged", f"s3://{s3.bucket}/caches")
        publish(node.started(LARGE))
        node.replaced()
        return node

    # The archive takes 40 KiB, and its files 80.
    @pytest.mark.parametrize("free_kib", range(0, 120, 8))
    @pytest.mark.parametrize("reserve_is_seen", [True, False])
    def test_is_called_that(
        self,
        small_node: Node,
        disk: Path,
        s3: S3,
        log: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        free_kib: int,
        reserve_is_seen: bool,
    ) -> None:
        """Found before anything is written or, where another process fills the disk, while it is."""
        if not reserve_is_seen:
            monkeypatch.setattr(compile_cache, "_room_bytes", lambda folder: 1 << 40)
        log.clear()
        fill(disk, free_kib * 1024)
        cache = small_node.cache()
        cache.restore()
        (warning,) = warnings(log)
        assert " is full (" in warning
        assert "Without it the engine compiles" in warning
        assert cache.publish() is None
        assert len(objects_in(s3)) == 1
        (disk / "filler").unlink()
        assert content_of(small_node.started()) == LARGE

    @pytest.mark.parametrize("free_kib", range(0, 40, 8))
    def test_while_publishing_is_called_that_and_not_tried_again_at_once(
        self, small_node: Node, disk: Path, s3: S3, log: pytest.LogCaptureFixture, free_kib: int
    ) -> None:
        cache = small_node.started({"triton/OTHER/kernel.cubin": b"new"})
        fill(disk, free_kib * 1024)
        log.clear()
        publish(cache)
        (warning,) = warnings(log)
        assert f"not published: the disk of {cache.folder.path} is full: make room" in warning
        assert len(objects_in(s3)) == 1
        assert not list(cache.folder.path.glob(".publish-*"))
        if small_node.started().publish() is not None:
            # There was not even room to note the attempt.
            assert free_kib == 0


LARGE = {f"triton/{number}/kernel.cubin": os.urandom(2048) + bytes(2048) for number in range(20)}


def fill(disk: Path, free_bytes: int) -> None:
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free_bytes)


def test_what_failed_is_tried_again_after_an_hour(
    node: Node, proxy: FaultProxy, s3: S3, log: pytest.LogCaptureFixture
) -> None:
    proxy.plan = on("PUT", "", DENIED)
    publish(node.started(COMPILED))
    puts = len(proxy.log)
    proxy.plan = lambda request: OK
    for _ in range(3):
        assert node.started().publish() is None
    assert "has not succeeded" in log.text
    assert not [exchange for exchange in proxy.log[puts:] if exchange.request.method == "PUT"]
    attempt = node.cache().folder.path / "attempt"
    then = attempt.stat().st_mtime - cache_folder.PUBLISH_AGAIN_S
    os.utime(attempt, (then, then))
    publish(node.started())
    assert len(objects_in(s3)) == 1
    assert not attempt.exists()
    # From here on it is as if nothing had failed.
    publish(node.started({"triton/OTHER/kernel.cubin": b"new"}))
    assert len(objects_in(s3)) == 2


# --- S3 that does not answer as it should --------------------------------------------------------------


DENIED = Fault(status=403, code="AccessDenied")


@pytest.mark.parametrize(
    "plan",
    [
        on("GET", "", DENIED),
        on("GET", ".tar.gz", DENIED),
        on("GET", ".tar.gz", Fault(status=404, code="NoSuchKey")),
        on("GET", ".tar.gz", Fault(reset_at=100)),
        on("GET", "", Fault(status=503, code="SlowDown")),
        lambda request: Fault(reset_before_answer=True),
    ],
    ids=["may not list", "may not read", "gone", "breaks", "slow down", "resets"],
)
def test_restoring_fails(node: Node, proxy: FaultProxy, log: pytest.LogCaptureFixture, plan: Plan) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    log.clear()
    proxy.plan = plan
    cache = node.started()
    assert content_of(cache) == {}
    last = warnings(log)[-1]
    assert f"s3://{node.bucket}".replace("s3://s3://", "s3://") in last
    assert "Without it the engine compiles" in last
    # What is in the bucket is not known, so it is not added to.
    write(cache, COMPILED)
    assert cache.publish() is None


def test_one_answer_that_breaks_is_asked_for_again(node: Node, proxy: FaultProxy) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    proxy.forget()
    proxy.plan = lambda request: Fault(reset_at=100) if request.attempt == 1 else OK
    assert content_of(node.started()) == COMPILED


@pytest.mark.parametrize("fault", [Fault(stall_at=100), Fault(bytes_per_s=200)], ids=["stalls", "trickles"])
def test_patience_has_an_end(
    node: Node,
    proxy: FaultProxy,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    log.clear()
    proxy.plan = on("GET", ".tar.gz", fault)
    monkeypatch.setattr(compile_cache, "FETCH_S", 0.3)
    # Nothing else would end it in time.
    monkeypatch.setattr(objects, "READ_TIMEOUT_S", 1000)
    begin = time.monotonic()
    assert content_of(node.started()) == {}
    assert time.monotonic() - begin < 100
    assert warnings(log)


def test_no_bucket(tmp_path: Path, s3: S3, log: pytest.LogCaptureFixture) -> None:
    cache = Node(tmp_path / "staged", "s3://no-such-bucket-here/caches").started(COMPILED)
    assert content_of(cache) == COMPILED
    assert "NoSuchBucket" in warnings(log)[0]


def test_nothing_listens(node: Node, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    cache = node.started(COMPILED)
    assert content_of(cache) == COMPILED
    assert "AWS_ENDPOINT_URL" in warnings(log)[-1]


def test_settings_that_make_no_client(
    node: Node, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert content_of(node.started(COMPILED)) == COMPILED
    assert len(warnings(log)) == 1


def test_a_replica_that_is_not_allowed_to_write(
    own_process: None, node: Node, proxy: FaultProxy, log: pytest.LogCaptureFixture
) -> None:
    proxy.plan = on("PUT", "", DENIED)
    publish(node.started(COMPILED))
    (warning,) = warnings(log)
    assert "not published" in warning
    assert "AccessDenied" in warning
    assert "docs/operations.md" in warning


def test_a_folder_that_cannot_be_made(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "staged").write_text("a file")
    cache = Node(tmp_path / "staged", None).cache()
    cache.restore()
    assert len(warnings(log)) == 1
    assert cache.publish() is None
