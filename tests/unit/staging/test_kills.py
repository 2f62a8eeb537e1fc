"""Processes that end at any moment, and others that stage the same version at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from serve_app.staging.errors import NotPublishedError
from serve_app.staging.objects import S3Location
from serve_app.staging.store import Store, read_manifest
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, PATIENCE_S, Fault, FaultProxy, Request
from tests.unit.staging.processes import Job, Worker
from tests.unit.staging.versions import (
    CHUNK_BYTES,
    LARGE,
    NUM_RANGES,
    RANGE_BYTES,
    SMALL,
    Version,
    all_chunks,
    asked_for,
    assert_complete,
    marked,
    partial_of,
    put,
    random_content,
    stage,
    write,
)


@pytest.fixture
def job(version: Version, proxy: FaultProxy, tmp_path: Path) -> Job:
    return Job(proxy.endpoint, version.location, tmp_path / "node", RANGE_BYTES)


def chunks_asked_for(version: Version, proxy: FaultProxy) -> set[tuple[str, int]]:
    return asked_for(version, (exchange.request for exchange in proxy.gets()))


def is_complete(version: Version, folder: Path) -> bool:
    """Whether the version has its final name; then it is whole."""
    if not (folder / version.folder_name).exists():
        return False
    assert_complete(folder / version.folder_name, version)
    return True


@pytest.mark.parametrize("seed", [0])
@pytest.mark.slow
def test_killed_50_times_at_random_points(s3: S3, proxy: FaultProxy, tmp_path: Path, seed: int) -> None:
    version = put(s3, random_content(seed, LARGE))
    job = Job(proxy.endpoint, version.location, tmp_path, RANGE_BYTES)
    numbers, num_kills, num_fetched_bytes = random.Random(seed), 0, 0
    present: set[tuple[str, int]] = set()
    while num_kills < 50:
        proxy.forget()
        # So that the kills are spread over the version.
        proxy.hold_after(numbers.randrange(1, 2 * version.manifest.total_bytes // 60))
        with Worker(job) as process:
            assert proxy.wait_held(lambda: not process.is_alive()), "it was to be killed"
            process.kill()
        proxy.release()
        num_kills += 1
        num_fetched_bytes += sum(exchange.sent_bytes for exchange in proxy.gets())
        assert not chunks_asked_for(version, proxy) & present, "what was verified is asked for again"
        now = marked(version, tmp_path)
        assert now >= present
        present = now
        assert not is_complete(version, tmp_path)
    proxy.forget()
    with Worker(job) as process:
        assert process.result() == ("done", str(tmp_path / version.folder_name))
    assert is_complete(version, tmp_path)
    assert chunks_asked_for(version, proxy) == all_chunks(version) - present
    assert num_kills == 50
    num_fetched_bytes += sum(exchange.sent_bytes for exchange in proxy.gets())
    # What was under way is lost with each kill, of each connection less than a chunk and what was buffered.
    assert num_fetched_bytes <= version.manifest.total_bytes + num_kills * job.concurrency * 2 * CHUNK_BYTES


@pytest.mark.slow
def test_killed_before_every_file_operation(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    version = put(s3, random_content(0, {"sub/model.safetensors": CHUNK_BYTES + 1}))
    before_rename, after_rename, step = 0, 0, 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        job = Job(proxy.endpoint, version.location, folder, RANGE_BYTES, kill_at_step=step)
        with Worker(job) as process:
            what, _ = process.result()
        if what == "done":
            break
        assert what == "ended"
        # What has its final name is whole, and what is marked is right.
        was_complete = is_complete(version, folder)
        present = set() if was_complete else marked(version, folder)
        if was_complete:
            after_rename += 1
        elif present == all_chunks(version):
            before_rename += 1
        proxy.forget()
        assert stage(version, folder).path == folder / version.folder_name
        assert is_complete(version, folder)
        asked = chunks_asked_for(version, proxy)
        assert asked == (set() if was_complete else all_chunks(version) - present)
    assert is_complete(version, folder)
    # Among others, between the last mark and the rename, and between the rename and the end.
    assert before_rename >= 2
    assert after_rename >= 2
    assert step > 20


@pytest.mark.slow
def test_killed_while_evicting(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    sizes = {"sub/model.safetensors": 1000}
    old, new = (put(s3, random_content(seed, sizes), f"models/v{seed}") for seed in range(2))
    stage(old, tmp_path / "before").close()
    budget = new.manifest.total_bytes + 50
    step, num_evicted = 0, 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "before", folder)
        job = Job(proxy.endpoint, new.location, folder, RANGE_BYTES, max_bytes=budget, kill_at_step=step)
        with Worker(job) as process:
            what, _ = process.result()
        if what == "done":
            break
        assert what == "ended"
        # Whole or not there, and with it whatever made room for the new one.
        num_evicted += not is_complete(old, folder)
        if step % 5:
            continue
        stage(new, folder, max_bytes=budget)
        assert is_complete(new, folder)
        assert not is_complete(old, folder)
        assert list((folder / ".evicted").iterdir()) == []
    assert 10 < num_evicted < step - 10


def test_eight_at_once(job: Job, version: Version, proxy: FaultProxy) -> None:
    proxy.hold_after(CHUNK_BYTES)
    with ExitStack() as stack:
        processes = [stack.enter_context(Worker(job)) for _ in range(8)]
        begun = [process.hear() for process in processes]
        # One downloads, and seven show how far it is.
        assert Counter(begun) == {("begins", "download"): 1, ("begins", "another process is staging"): 7}
        proxy.release()
        for process in processes:
            assert process.result() == ("done", str(job.folder / version.folder_name))
        assert is_complete(version, job.folder)
        ranges = Counter((exchange.request.path, exchange.request.first_byte) for exchange in proxy.gets())
        assert len(ranges) == NUM_RANGES
        assert set(ranges.values()) == {1}
        assert len(proxy.log) == NUM_RANGES + 8  # and the manifest


def test_killed_downloaders_are_replaced(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    version = put(s3, random_content(0, LARGE))
    job = Job(proxy.endpoint, version.location, tmp_path, RANGE_BYTES)
    numbers = random.Random(0)
    present: set[tuple[str, int]] = set()
    step = version.manifest.total_bytes // 8
    proxy.hold_after(numbers.randrange(step))
    with ExitStack() as stack:
        waiting = [stack.enter_context(Worker(job)) for _ in range(8)]
        for process in waiting:
            assert process.hear()[0] == "begins"
        for _ in range(7):
            assert proxy.wait_held()
            [downloader] = [
                process for process in waiting if has_open(process, partial_of(version, tmp_path))
            ]
            waiting.remove(downloader)
            downloader.kill()
            asked, now = chunks_asked_for(version, proxy), marked(version, tmp_path)
            assert not asked & present
            assert now >= present
            present = now
            proxy.forget()
            proxy.hold_after(numbers.randrange(step))
            # The next one of those that wait takes over.
            [ready, *_] = wait([process.connection for process in waiting], PATIENCE_S)
            [process] = [process for process in waiting if process.connection is ready]
            assert process.hear() == ("begins", "download")
        proxy.release()
        [last] = waiting
        assert last.result() == ("done", str(tmp_path / version.folder_name))
    assert is_complete(version, tmp_path)
    assert not chunks_asked_for(version, proxy) & present


def has_open(process: Worker, folder: Path) -> bool:
    """Whether the process has a file below `folder` open."""
    links = Path(f"/proc/{process.process.pid}/fd").iterdir()
    return any(str(folder) in str(link.readlink()) for link in links if link.is_symlink())


@pytest.mark.parametrize(
    "fault", [OK, Fault(bytes_per_s=100), Fault(status=503, code="SlowDown"), Fault(reset_at=3)]
)
def test_ctrl_c_ends_at_once_and_keeps_what_has_arrived(
    job: Job, version: Version, proxy: FaultProxy, fault: Fault
) -> None:
    # Six ranges are good, and whatever comes later hangs, trickles, or is tried again and again.
    proxy.plan = lambda request: OK if request.first_byte in (None, 0) else fault
    proxy.hold_after(3 * CHUNK_BYTES)
    settings = {("objects", name): 1000.0 for name in ("FIRST_DELAY_S", "MAX_DELAY_S", "READ_TIMEOUT_S")}
    with Worker(replace(job, settings=settings)) as process:
        assert process.hear() == ("begins", "download")
        assert proxy.wait_held()
        if fault is not OK:
            proxy.release()
        start = time.monotonic()
        assert process.process.pid
        os.kill(process.process.pid, signal.SIGINT)
        assert process.result() == ("interrupted", "")
        # Far less than the time after which it is tried again or given up.
        assert time.monotonic() - start < 100
        process.end()
        assert process.process.exitcode == 0
    proxy.release()
    present = marked(version, job.folder)
    assert not is_complete(version, job.folder)
    proxy.forget()
    proxy.plan = lambda request: OK
    assert_complete(stage(version, job.folder).path, version)
    assert chunks_asked_for(version, proxy) == all_chunks(version) - present


@pytest.mark.slow
def test_publishing_killed_at_every_request(s3: S3, proxy: FaultProxy, tmp_path: Path) -> None:
    content = random_content(0, SMALL | {"LICENSE": 20})
    source, step = write(tmp_path / "source", content), 0
    while True:
        step += 1
        location = s3.location(f"models/v{step}")
        job = Job(proxy.endpoint, location, tmp_path, RANGE_BYTES, source=source)
        proxy.forget()
        kill = Kill(step)
        proxy.plan = kill
        with Worker(job) as process:
            kill.process = process
            what, digest = process.result()
        if what == "done":
            break
        assert what == "ended"
        proxy.plan = lambda request: OK
        proxy.settle()
        there = stored(s3, location)
        if "manifest.json" in there:
            # Its PUT was the last request, and has arrived though the process did not live to see it.
            assert set(content) <= there
        else:
            with pytest.raises(NotPublishedError):
                read_manifest(s3.client, location)
        proxy.forget()
        with Worker(job) as process:
            what, digest = process.result()
            assert what == "done", digest
        puts = [exchange.request for exchange in proxy.log if exchange.request.method == "PUT"]
        sent = [request.path.rpartition("/")[2] for request in puts]
        # Nothing twice, and the manifest last.
        assert sent == sorted(set(content) - there) + ([] if "manifest.json" in there else ["manifest.json"])
        staged = stage_published(location, tmp_path / "node")
        assert {path: (staged / path).read_bytes() for path in content} == content
    assert step == 1 + 1 + 3 + 3 + 1  # manifest, files, files, manifest; and one that is not killed
    assert read_manifest(s3.client, location).digest == digest


class Kill:
    """A plan that kills a process when its request with this number has arrived."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_requests = 0
        self.process: Worker | None = None

    def __call__(self, request: Request) -> Fault:
        self.num_requests += 1
        if self.num_requests == self.number and self.process:
            self.process.kill()
        return OK


def stored(s3: S3, location: S3Location) -> set[str]:
    """The objects below the prefix."""
    found = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=location.key(""))
    return {item["Key"].removeprefix(location.key("")) for item in found.get("Contents", [])}


def stage_published(location: S3Location, folder: Path) -> Path:
    return Store(folder, range_bytes=RANGE_BYTES, concurrency=4).stage(location).path
