"""Caches of compiled code on nodes and in S3: published once, restored where they match, never in the way."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.sections import StagingConfig
from serve_app.staging import cache_folder, cache_publisher, compile_cache
from serve_app.staging.cache_folder import VARIABLES, CacheFolder, Mark, travels
from serve_app.staging.compile_cache import CompileCache
from serve_app.staging.generations import Generations
from serve_app.staging.locks import Lock
from serve_app.staging.objects import S3Location
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, Fault, FaultProxy, Plan, Request
from tests.unit.staging.test_archives import MALICIOUS, make_tar, malicious, member

ARGUMENTS = {"model": "openai/gpt-oss-20b", "max_num_seqs": 64}
COMPILER = {"vllm": "0.29.0", "device": "NVIDIA H100"}
COMPILED = {
    "vllm/torch_compile_cache/abc/rank_0_0/model": b"graph" * 1000,
    "vllm/modelinfos/GptOss.json": b"{}",
    "triton/KEY/kernel.cubin": os.urandom(5000),
}


class Node:
    """A node with an empty disk, always at the same path: where caches lie is part of their key."""

    def __init__(self, folder: Path, bucket: str | None) -> None:
        self.folder = folder
        self.bucket = bucket

    def cache(self, **changes: Any) -> CompileCache:
        """What a replica of this node makes when it starts."""
        settings = {name: changes.pop(name) for name in ("publish_compile_cache",) if name in changes}
        return CompileCache(
            StagingConfig(folder=str(self.folder), compile_cache=self.bucket, **settings),
            ARGUMENTS | changes.pop("arguments", {}),
            COMPILER | changes,
        )

    def started(self, compiled: dict[str, bytes] | None = None, **changes: Any) -> CompileCache:
        """A replica that is ready; its engine has compiled `compiled`."""
        cache = self.cache(**changes)
        cache.restore()
        write(cache, compiled or {})
        return cache

    def replaced(self) -> None:
        """From here on it is another machine."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write(cache: CompileCache, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (cache.folder.path / path).parent.mkdir(parents=True, exist_ok=True)
        (cache.folder.path / path).write_bytes(content)


def content_of(cache: CompileCache) -> dict[str, bytes]:
    return {path: (cache.folder.path / path).read_bytes() for path in cache.folder.files()}


def publish(cache: CompileCache) -> None:
    """As in production, but waited for."""
    thread = cache.publish()
    assert thread
    thread.join()


@pytest.fixture(autouse=True)
def quick_publisher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher in this process otherwise: its own costs most of a second."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            status = cache_publisher.main(command[3:])
        return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())

    if "own_process" not in request.fixturenames:
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(os, "nice", lambda by: 0)


@pytest.fixture
def own_process() -> None:
    """For tests that are about the publisher's process."""


@pytest.fixture
def node(tmp_path: Path, s3: S3) -> Node:
    return Node(tmp_path / "staged", f"s3://{s3.bucket}/caches")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "ray.serve")
    return caplog


def objects_in(s3: S3) -> list[str]:
    return [item["Key"] for item in s3.client.list_objects_v2(Bucket=s3.bucket).get("Contents", [])]


def put(s3: S3, cache: CompileCache, number: int, content: bytes, digest: str | None = None) -> None:
    s3.client.put_object(
        Bucket=s3.bucket,
        Key=f"caches/{cache.key}/{number:05}.tar.gz",
        Body=content,
        Metadata={"sha256": digest or hashlib.sha256(content).hexdigest()},
    )


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]


# --- there and back ------------------------------------------------------------------------------------


def test_another_node_gets_what_the_first_has_compiled(
    own_process: None, node: Node, s3: S3, log: pytest.LogCaptureFixture
) -> None:
    first = node.started(COMPILED)
    assert first.state == "cold"
    publish(first)
    assert objects_in(s3) == [f"caches/{first.key}/00001.tar.gz"]
    assert "published s3://" in log.text
    node.replaced()
    second = node.started()
    assert content_of(second) == COMPILED
    assert second.state == "generation 1"
    assert second.publish() is None
    assert not warnings(log)


def test_variables_lead_into_the_folder(node: Node) -> None:
    cache = node.cache()
    environment = cache.environment({})
    assert set(environment) == set(VARIABLES)
    assert environment["VLLM_CACHE_ROOT"] == str(cache.folder.path / "vllm")
    assert all(travels(f"{Path(path).name}/file") for path in environment.values())


def test_variables_that_are_set_stay(node: Node) -> None:
    torch_did = f"{tempfile.gettempdir()}/torchinductor_root"
    present = {"TRITON_CACHE_DIR": "/mine", "TORCHINDUCTOR_CACHE_DIR": torch_did, "CUDA_CACHE_PATH": ""}
    environment = node.cache().environment(present)
    assert set(VARIABLES) - set(environment) == {"TRITON_CACHE_DIR"}


@pytest.mark.parametrize(
    "changes",
    [{"vllm": "0.30.0"}, {"device": "NVIDIA H200"}, {"driver": "590"}, {"arguments": {"max_num_seqs": 65}}],
    ids=str,
)
def test_what_does_not_match_is_not_used(node: Node, s3: S3, changes: dict[str, Any]) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    other = node.started(**changes)
    assert content_of(other) == {}
    assert other.state == "cold"


def test_without_a_bucket_the_node_keeps_its_caches(tmp_path: Path) -> None:
    node = Node(tmp_path / "staged", None)
    first = node.started(COMPILED)
    assert first.publish() is None
    second = node.started()
    assert content_of(second) == COMPILED
    assert second.state == "of this node"


def test_a_replica_that_may_not_publish(node: Node, s3: S3) -> None:
    cache = node.started(COMPILED, publish_compile_cache=False)
    assert cache.publish() is None
    assert objects_in(s3) == []


# --- generations ---------------------------------------------------------------------------------------


def test_what_is_new_becomes_the_next_generation(node: Node, s3: S3) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    more = {"triton/OTHER/kernel.cubin": b"new"}
    publish(node.started(more))
    assert len(objects_in(s3)) == 2
    node.replaced()
    assert content_of(node.started()) == COMPILED | more


def test_a_node_gets_a_newer_generation_and_keeps_its_own_files(node: Node, s3: S3) -> None:
    cache = node.started(COMPILED)
    publish(cache)
    own = {"triton/OWN/kernel.cubin": b"met in a request"}
    write(cache, own)
    put(s3, cache, 2, make_tar(node.folder / "other", member("vllm/new")).read_bytes())
    again = node.started()
    assert content_of(again) == COMPILED | own | {"vllm/new": b"x"}
    assert again.folder.mark.generation == 2
    # What this node alone has is news, whatever the newest generation holds.
    publish(again)
    node.replaced()
    assert content_of(node.started()) == COMPILED | own | {"vllm/new": b"x"}


def test_the_same_generation_is_not_fetched_again(node: Node, proxy: FaultProxy) -> None:
    publish(node.started(COMPILED))
    proxy.forget()
    assert node.started().state == "generation 1"
    assert not archives_fetched(proxy)


def test_files_that_only_change_are_no_news(node: Node) -> None:
    publish(node.started(COMPILED))
    cache = node.started({"vllm/torch_compile_cache/abc/rank_0_0/model": b"written anew at every start"})
    assert cache.publish() is None


def test_a_bucket_that_was_emptied_is_filled_again(node: Node, s3: S3) -> None:
    cache = node.started(COMPILED)
    publish(cache)
    s3.client.delete_object(Bucket=s3.bucket, Key=objects_in(s3)[0])
    again = node.started()
    publish(again)
    node.replaced()
    assert content_of(node.started()) == COMPILED


def test_files_of_other_names_are_no_generations(node: Node, s3: S3) -> None:
    key = node.cache().key
    for name in ("00009.tar.gz.bak", "notes.txt", "9.tar.gz", "deeper/00009.tar.gz"):
        s3.client.put_object(Bucket=s3.bucket, Key=f"caches/{key}/{name}", Body=b"")
    publish(node.started(COMPILED))
    assert f"caches/{key}/00001.tar.gz" in objects_in(s3)


def test_a_slash_at_the_end_of_the_prefix_changes_nothing(
    node: Node, s3: S3, log: pytest.LogCaptureFixture
) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    assert Node(node.folder, f"{node.bucket}/").started().folder.files()
    assert not warnings(log)


def test_generations_have_an_end(node: Node, s3: S3, log: pytest.LogCaptureFixture) -> None:
    cache = node.started(COMPILED)
    put(
        s3, cache, cache_publisher.MAX_GENERATIONS, make_tar(node.folder / "a", member("vllm/a")).read_bytes()
    )
    publish(node.started())
    assert "20 generations already" in log.text
    assert len(objects_in(s3)) == 1


def test_more_than_a_page_of_generations(node: Node, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = node.cache()
    for number in range(1, 4):
        put(s3, cache, number, b"")
    generations = Generations(S3Location(s3.bucket, f"caches/{cache.key}"), s3.client)
    paginate = type(s3.client.get_paginator("list_objects_v2")).paginate
    monkeypatch.setattr(
        type(s3.client.get_paginator("list_objects_v2")),
        "paginate",
        lambda self, **options: paginate(self, **options, PaginationConfig={"PageSize": 1}),
    )
    assert generations.newest() == 3


def test_of_two_that_publish_one_wins(node: Node, s3: S3, log: pytest.LogCaptureFixture) -> None:
    one = node.started(COMPILED)
    node.replaced()
    other = node.started({"triton/OTHER/kernel.cubin": b"1"})
    publish(other)
    sent = s3.client.get_object(Bucket=s3.bucket, Key=objects_in(s3)[0])["ETag"]
    write(one, COMPILED)
    publish(one)
    assert "another replica was first" in log.text
    assert len(objects_in(s3)) == 1
    assert s3.client.get_object(Bucket=s3.bucket, Key=objects_in(s3)[0])["ETag"] == sent
    assert not warnings(log)


def test_publishers_at_the_same_moment(node: Node, s3: S3) -> None:
    """On different nodes: nothing but the condition of the PUT decides."""
    from concurrent.futures import ThreadPoolExecutor

    location = S3Location(s3.bucket, "caches/k")
    made = [make_tar(node.folder.parent / f"{n}.tar", member(f"vllm/{n}")) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda archive: Generations(location).publish(1, archive), made))
    assert won.count(True) == 1
    stored = s3.client.get_object(Bucket=s3.bucket, Key=location.key("00001.tar.gz"))["Body"].read()
    assert stored == made[won.index(True)].read_bytes()


def test_replicas_of_one_node_do_not_pack_twice(node: Node, log: pytest.LogCaptureFixture) -> None:
    cache = node.started(COMPILED)
    with Lock(cache.folder.publish_lock) as lock:
        assert lock.try_exclusive()
        publish(cache)
    assert "another replica of this node" in log.text


def test_what_stays_on_the_node(node: Node) -> None:
    stays = {
        "vllm/startup_plan/startup_plan_1.json": b"",
        "vllm/gpu_p2p_access_cache_for_0,1.json": b"",
        "vllm/assets/picture.png": b"",
        "vllm/torch_compile_cache/torch_aot_compile/h/inductor_cache/locks/x": b"",
        "vllm/torch_compile_cache/torch_aot_compile/h/rank_0_0/model.123.tmp": b"",
        "triton/KEY/lock": b"",
        "triton/KEY/tmp.pid_1_2/kernel.cubin": b"",
        "flashinfer/.cache/flashinfer/0.6/90a/cached_ops/tmp/norm.lock": b"",
        "vllm/flashinfer_autotune_cache/h/autotune_configs.json.tmp.77": b"",
        "generation.json.old": b"",
        "elsewhere/file": b"",
    }
    cache = node.started(COMPILED | stays)
    assert cache.folder.files() == sorted(COMPILED)
    publish(cache)
    node.replaced()
    assert content_of(node.started()) == COMPILED


# --- archives that are no good -------------------------------------------------------------------------


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
    assert "more than" in warnings(log)[0]


# --- S3 that does not answer as it should --------------------------------------------------------------


def on(method: str, ending: str, fault: Fault) -> Plan:
    def plan(request: Request) -> Fault:
        return fault if request.method == method and request.path.endswith(ending) else OK

    return plan


def archives_fetched(proxy: FaultProxy) -> list[Request]:
    return [e.request for e in proxy.log if e.request.method == "GET" and e.request.path.endswith(".tar.gz")]


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
    begin = time.monotonic()
    assert content_of(node.started()) == {}
    assert time.monotonic() - begin < 5
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


# --- processes of one node -----------------------------------------------------------------------------


def restore_in_process(node: Node) -> dict[str, bytes]:
    return content_of(node.started())


def test_four_replicas_fetch_once(node: Node, proxy: FaultProxy) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    proxy.forget()
    # Long enough for all to have come, and short enough to wait for.
    proxy.plan = on("GET", ".tar.gz", Fault(delay_s=1.0))
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(restore_in_process, [node] * 4, chunksize=1) == [COMPILED] * 4
    assert len(archives_fetched(proxy)) == 1
    assert sum(exchange.request.path.endswith(".tar.gz") is False for exchange in proxy.log) == 4


def test_what_killed_processes_left_is_removed(node: Node) -> None:
    publish(node.started(COMPILED))
    node.replaced()
    left = node.cache().folder.path / ".restore-dead"
    left.mkdir(parents=True)
    (left / "archive").write_bytes(bytes(1000))
    assert content_of(node.started()) == COMPILED
    assert not left.exists()


def test_caches_of_the_past_are_removed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(cache: CompileCache) -> None:
        assert cache._in_use
        cache._in_use.close()

    old, used, started_again, recent = (node.started(COMPILED, vllm=version) for version in "1235")
    for cache in (old, used, started_again):
        os.utime(node.folder / "compile/.in-use" / cache.folder.path.name, (1, 1))
    for cache in (started_again, node.started(vllm="3"), old, recent):
        end(cache)
    node.started(vllm="4")
    assert not old.folder.path.exists()
    for cache in (used, started_again, recent):
        assert cache.folder.path.exists()
    assert [path.name for path in (node.folder / "compile").glob(".removed-*")] == []
    # The key may come back.
    assert content_of(node.started(COMPILED, vllm="1")) == COMPILED


def test_a_mark_that_cannot_be_read(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, "k")
    assert folder.mark == Mark()
    folder.open()
    folder.set_mark(Mark(3, frozenset({"vllm/a"})))
    assert folder.mark == Mark(3, frozenset({"vllm/a"}))
    assert json.loads((tmp_path / "k/generation.json").read_text())["generation"] == 3
    (tmp_path / "k/generation.json").write_text('{"generation": "many')
    assert folder.mark == Mark()


def test_the_publisher_runs_at_the_lowest_priority(
    node: Node, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = node.started(COMPILED)
    nice = list[int]()
    monkeypatch.setattr(os, "nice", nice.append)
    arguments = [str(cache.folder.path), f"s3://{s3.bucket}/caches/{cache.key}", "1"]
    assert cache_publisher.main(arguments) == 0
    assert nice == [19]
    assert "published" in capsys.readouterr().out


def test_a_publisher_that_cannot_be_started(
    own_process: None, node: Node, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    publish(node.started(COMPILED))
    assert "not published" in warnings(log)[0]


def test_a_cache_that_changes_while_it_is_packed(node: Node, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = node.started(COMPILED)
    files: Callable[[CacheFolder], list[str]] = CacheFolder.files
    monkeypatch.setattr(CacheFolder, "files", lambda self: [*files(self), "vllm/was-there-a-moment-ago"])
    result = cache_publisher.publish(cache.folder, Generations(s3.location(f"caches/{cache.key}")), 1)
    assert "not published: vllm/was-there-a-moment-ago is gone" in result
    assert objects_in(s3) == []
    assert cache_folder.travels("vllm/a")
