"""Caches of compiled code on nodes and in S3: published once, restored where they match."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.staging import cache_folder, cache_publisher
from serve_app.staging.cache_folder import VARIABLES, CacheFolder, Mark, travels
from serve_app.staging.compile_cache import CompileCache
from serve_app.staging.generations import Generations
from tests.unit.staging.caches import (
    COMPILED,
    Node,
    archives_fetched,
    content_of,
    objects_in,
    on,
    publish,
    warnings,
)
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import Fault, FaultProxy


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


# --- processes of one node -----------------------------------------------------------------------------


def restore_in_process(node: Node) -> dict[str, bytes]:
    return content_of(node.started())


@pytest.mark.slow
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
