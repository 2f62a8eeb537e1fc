"""Generations of a cache in S3: what is new is added, and of two that publish one wins."""

from __future__ import annotations

import pytest

from serve_app.staging import cache_publisher
from serve_app.staging.generations import Generations
from serve_app.staging.locks import Lock
from serve_app.staging.objects import S3Location
from tests.unit.staging.caches import (
    COMPILED,
    Node,
    archives_fetched,
    content_of,
    objects_in,
    publish,
    put,
    warnings,
    write,
)
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import FaultProxy
from tests.unit.staging.test_archives import make_tar, member


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
