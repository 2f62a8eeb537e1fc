"""Disk space: checked before, made by eviction, and what happens when it ends all the same."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve_app.staging import eviction
from serve_app.staging.errors import NoSpaceError
from serve_app.staging.locks import Lock
from serve_app.staging.partial import allocated_bytes
from serve_app.staging.store import StagedFolder
from tests.examples import examples
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, PATIENCE_S, Fault, FaultProxy, Request
from tests.unit.staging.processes import Job, Worker
from tests.unit.staging.versions import (
    RANGE_BYTES,
    SIZES,
    Version,
    assert_complete,
    marked,
    partial_of,
    put,
    random_content,
    stage,
)
from tests.waiting import wait_until

SIZE = sum(SIZES.values())


@pytest.fixture
def versions(s3: S3) -> list[Version]:
    """Three of the same size."""
    return [put(s3, random_content(number), f"models/v{number}") for number in range(3)]


def used_at(version: Version, folder: Path, when: int) -> None:
    """Sets the time of the version's last use."""
    name = version.manifest.digest[:16]
    for path in (folder / ".in-use" / name, folder / version.folder_name, folder / ".partial" / name):
        if path.exists():
            os.utime(path, (when, when))


def present(folder: Path, versions: list[Version]) -> list[int]:
    return [number for number, version in enumerate(versions) if (folder / version.folder_name).exists()]


@pytest.mark.parametrize("oldest", [0, 1])
def test_the_version_used_longest_ago_is_evicted(
    versions: list[Version], tmp_path: Path, oldest: int
) -> None:
    for version in versions[:2]:
        stage(version, tmp_path).close()
        used_at(version, tmp_path, 2)
    used_at(versions[oldest], tmp_path, 1)
    staged = stage(versions[2], tmp_path, max_bytes=2 * SIZE + 10_000)
    assert_complete(staged.path, versions[2])
    assert present(tmp_path, versions) == [1 - oldest, 2]
    assert list((tmp_path / ".evicted").iterdir()) == []


def test_nothing_is_evicted_within_the_budget(versions: list[Version], tmp_path: Path) -> None:
    for version in versions:
        stage(version, tmp_path, max_bytes=3 * SIZE + 20_000).close()
    assert present(tmp_path, versions) == [0, 1, 2]


def test_a_version_may_take_the_whole_budget_also_after_an_interruption(
    versions: list[Version], proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.plan = cut_short
    with pytest.raises(Exception, match="AccessDenied"):
        stage(versions[0], tmp_path, max_bytes=SIZE)
    proxy.plan = lambda request: OK
    assert_complete(stage(versions[0], tmp_path, max_bytes=SIZE).path, versions[0])


def cut_short(request: Request) -> Fault:
    return Fault(status=403, code="AccessDenied") if request.first_byte == RANGE_BYTES else OK


def test_what_is_in_use_is_never_evicted(versions: list[Version], tmp_path: Path) -> None:
    staged = stage(versions[0], tmp_path)
    used_at(versions[0], tmp_path, 1)
    stage(versions[1], tmp_path).close()
    used_at(versions[1], tmp_path, 2)
    budget = 2 * SIZE + 10_000
    other = stage(versions[2], tmp_path, max_bytes=budget)
    assert present(tmp_path, versions) == [0, 2]
    with pytest.raises(NoSpaceError) as caught:
        stage(versions[1], tmp_path, max_bytes=budget)
    message = str(caught.value)
    assert message.startswith(f"{versions[1].location.uri()}: {SIZE:,} bytes are needed beside ")
    assert f"in {tmp_path}, more than staging.max_bytes ({budget:,})" in message
    assert "no version there can be evicted: make room, raise staging.max_bytes" in message
    assert present(tmp_path, versions) == [0, 2]
    staged.close()
    stage(versions[1], tmp_path, max_bytes=budget).close()
    assert present(tmp_path, versions) == [1, 2]
    other.close()


def test_a_live_process_keeps_what_it_uses_and_a_killed_one_does_not(
    versions: list[Version], proxy: FaultProxy, tmp_path: Path
) -> None:
    job = Job(proxy.endpoint, versions[0].location, tmp_path, RANGE_BYTES)
    with Worker(job) as process:
        assert process.result() == ("done", str(tmp_path / versions[0].folder_name))
        with pytest.raises(NoSpaceError):
            stage(versions[1], tmp_path, max_bytes=SIZE + 10_000)
        assert_complete(tmp_path / versions[0].folder_name, versions[0])
        process.kill()
        stage(versions[1], tmp_path, max_bytes=SIZE + 10_000).close()
    assert present(tmp_path, versions) == [1]


def test_a_version_larger_than_the_budget(versions: list[Version], proxy: FaultProxy, tmp_path: Path) -> None:
    with pytest.raises(NoSpaceError) as caught:
        stage(versions[0], tmp_path, max_bytes=SIZE - 1)
    assert str(caught.value) == (
        f"{versions[0].location.uri()} takes {SIZE:,} bytes in {tmp_path}, more than staging.max_bytes "
        f"({SIZE - 1:,}): raise it"
    )
    assert proxy.gets() == []


def test_a_version_that_will_not_fit_evicts_none(versions: list[Version], tmp_path: Path) -> None:
    """Not even those that are in nobody's way."""
    for version in versions[:2]:
        stage(version, tmp_path).close()
    with in_use(tmp_path, versions[0]), pytest.raises(NoSpaceError) as caught:
        stage(versions[2], tmp_path, max_bytes=SIZE + 10_000)
    assert "evicting all that may be (" in str(caught.value)
    assert "would not suffice, so nothing was evicted: make room" in str(caught.value)
    assert present(tmp_path, versions) == [0, 1]


@contextmanager
def in_use(folder: Path, version: Version) -> Iterator[None]:
    with Lock(folder / ".in-use" / version.manifest.digest[:16]) as lock:
        lock.shared()
        yield


@dataclass(frozen=True)
class Held:
    """A version that a folder holds."""

    kib: int
    last_use: int
    is_used: bool
    is_partial: bool

    def put(self, folder: Path, number: int, stack: ExitStack) -> None:
        path = folder / (f".partial/{number}" if self.is_partial else f"model-{number}")
        path.mkdir(parents=True)
        (path / ".manifest.json").touch()
        (path / "weights").write_bytes(os.urandom(self.kib * 1024))
        lock = stack.enter_context(Lock(folder / ".in-use" / str(number)))
        if self.is_used:
            lock.shared()
        for touched in (path, folder / ".in-use" / str(number)):
            os.utime(touched, (self.last_use, self.last_use))


@examples(100)
@given(
    held=st.lists(
        st.builds(Held, st.integers(0, 40), st.integers(1, 99), st.booleans(), st.booleans()),
        max_size=5,
        unique_by=lambda version: version.last_use,
    ),
    kib=st.integers(0, 100),
    budget_kib=st.none() | st.integers(1, 150),
    disk_kib=st.integers(1, 200),
)
def test_eviction_is_of_the_oldest_as_many_as_it_takes_or_of_none(
    held: list[Held], kib: int, budget_kib: int | None, disk_kib: int
) -> None:
    def fits(beside: list[Held]) -> bool:
        together = kib + sum(version.kib for version in beside)
        return together <= min(disk_kib, budget_kib or disk_kib)

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for number, version in enumerate(held):
            version.put(folder, number, stack)

        def left() -> list[Held]:
            paths = [*folder.glob("model-*"), *folder.glob(".partial/*")]
            return [held[int(path.name.rsplit("-", 1)[-1])] for path in paths]

        def disk_usage(_: Path) -> SimpleNamespace:
            used = sum(version.kib for version in left())
            return SimpleNamespace(total=disk_kib * 1024, free=(disk_kib - used) * 1024)

        patch.setattr(shutil, "disk_usage", disk_usage)
        patch.setattr(eviction, "RESERVE_BYTES", 0)
        try:
            eviction.make_room(folder, "new", kib * 1024, budget_kib and budget_kib * 1024, "it")
        except NoSpaceError:
            assert len(left()) == len(held)
            assert not fits([version for version in held if version.is_used])
            return
        kept = left()
        assert fits(kept)
        evicted = sorted((v for v in held if v not in kept), key=lambda version: version.last_use)
        assert not any(version.is_used for version in evicted)
        if evicted:
            assert all(version.is_used or version.last_use > evicted[-1].last_use for version in kept)
            assert not fits([*kept, evicted[-1]])


class TestInterruptedDownloads:
    @pytest.fixture
    def interrupted(self, versions: list[Version], proxy: FaultProxy, tmp_path: Path) -> Version:
        proxy.plan = cut_short
        with pytest.raises(Exception, match="AccessDenied"):
            stage(versions[0], tmp_path)
        proxy.plan = lambda request: OK
        assert allocated_bytes(partial_of(versions[0], tmp_path)) >= SIZE
        return versions[0]

    def test_are_evicted(self, interrupted: Version, versions: list[Version], tmp_path: Path) -> None:
        stage(versions[1], tmp_path, max_bytes=SIZE + 10_000)
        assert not partial_of(interrupted, tmp_path).exists()

    def test_are_evicted_by_last_use(
        self, interrupted: Version, versions: list[Version], tmp_path: Path
    ) -> None:
        stage(versions[1], tmp_path).close()
        used_at(interrupted, tmp_path, 2)
        used_at(versions[1], tmp_path, 1)
        # An earlier version of it was used long ago.
        mark = tmp_path / ".in-use" / interrupted.manifest.digest[:16]
        mark.touch()
        os.utime(mark, (0, 0))
        stage(versions[2], tmp_path, max_bytes=2 * SIZE + 10_000)
        assert partial_of(interrupted, tmp_path).exists()
        assert present(tmp_path, versions) == [2]

    def test_another_attempt_is_a_use(self, interrupted: Version, proxy: FaultProxy, tmp_path: Path) -> None:
        used_at(interrupted, tmp_path, 1)
        proxy.plan = cut_short
        with pytest.raises(Exception, match="AccessDenied"):
            stage(interrupted, tmp_path)
        assert partial_of(interrupted, tmp_path).stat().st_mtime > 1

    def test_are_not_evicted_while_another_process_goes_on(
        self, interrupted: Version, versions: list[Version], tmp_path: Path
    ) -> None:
        with Lock(tmp_path / ".locks" / interrupted.manifest.digest[:16]) as lock:
            assert lock.try_exclusive()
            with pytest.raises(NoSpaceError):
                stage(versions[1], tmp_path, max_bytes=SIZE + 10_000)
        assert partial_of(interrupted, tmp_path).exists()


def test_what_a_killed_process_was_evicting_goes_away(versions: list[Version], tmp_path: Path) -> None:
    stage(versions[0], tmp_path).close()
    trash = tmp_path / ".evicted" / "tmp123"
    trash.mkdir(parents=True)
    (tmp_path / versions[0].folder_name).rename(trash / versions[0].folder_name)
    stage(versions[1], tmp_path)
    assert list((tmp_path / ".evicted").iterdir()) == []


def test_a_version_that_another_process_evicts_first(versions: list[Version], tmp_path: Path) -> None:
    for version in versions[:2]:
        stage(version, tmp_path).close()
    gone, there = eviction._by_last_use(tmp_path, "")
    shutil.rmtree(gone)
    with eviction._unused(tmp_path, gone) as is_there:
        assert not is_there
    with eviction._unused(tmp_path, there) as is_there:
        assert is_there


def has_waiter(lock: Path) -> bool:
    """Whether anybody waits for the lock, as the kernel tells it."""
    inode = f":{lock.stat().st_ino} "
    return any(" -> " in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def wait_for_waiter(lock: Path) -> None:
    wait_until(
        lambda: lock.exists() and has_waiter(lock),
        PATIENCE_S,
        lambda: f"nobody waits for {lock}",
        interval_s=0.005,
    )


def test_a_version_that_is_evicted_just_when_it_was_to_be_used(
    versions: list[Version], proxy: FaultProxy, tmp_path: Path
) -> None:
    version = versions[0]
    staged = stage(version, tmp_path)
    staged.close()
    mark = tmp_path / ".in-use" / version.manifest.digest[:16]
    with ThreadPoolExecutor(1) as pool, Lock(mark) as evictor:
        assert evictor.try_exclusive()
        again = pool.submit(stage, version, tmp_path)
        wait_for_waiter(mark)
        staged.path.rename(tmp_path / "away")
        evictor.close()
        assert_complete(again.result().path, version)


def test_room_is_made_for_one_version_at_a_time(
    versions: list[Version], proxy: FaultProxy, tmp_path: Path
) -> None:
    turn = tmp_path / ".locks" / "room"
    with ThreadPoolExecutor(1) as pool, Lock(turn) as other:
        assert other.try_exclusive()
        staged = pool.submit(stage, versions[0], tmp_path)
        wait_for_waiter(turn)
        assert allocated_bytes(partial_of(versions[0], tmp_path)) == 0
        other.close()
        assert_complete(staged.result().path, versions[0])


@pytest.mark.slow
def test_eviction_against_use(versions: list[Version], tmp_path: Path) -> None:
    """Whoever gets a folder has it whole for as long as he wants, however often it is evicted."""
    budget, num_rounds = 2 * SIZE + 10_000, 12
    problems: list[BaseException] = []

    def use(numbers: list[int]) -> None:
        for number in numbers:
            try:
                staged = stage(versions[number], tmp_path, concurrency=1, max_bytes=budget)
            except NoSpaceError:
                continue  # the others hold everything else
            except BaseException as error:
                problems.append(error)
                raise
            check(staged, versions[number])
            staged.close()

    def check(staged: StagedFolder, version: Version) -> None:
        try:
            for _ in range(3):
                assert_complete(staged.path, version)
        except BaseException as error:
            problems.append(error)

    threads = [
        threading.Thread(target=use, args=([(start + step) % 3 for step in range(num_rounds)],))
        for start in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert allocated_bytes(tmp_path) <= budget


class TestDisk:
    """On a file system of its own."""

    @pytest.fixture(autouse=True)
    def reserve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eviction, "RESERVE_BYTES", 64 * 1024)

    def test_space_is_checked_before(
        self, versions: list[Version], proxy: FaultProxy, small_disk: Callable[[int], Path]
    ) -> None:
        disk = small_disk(2 * SIZE)
        (disk / "other").write_bytes(bytes(SIZE - 16 * 1024))
        with pytest.raises(NoSpaceError) as caught:
            stage(versions[0], disk)
        free = shutil.disk_usage(disk).free
        message = str(caught.value)
        assert message.startswith(f"{versions[0].location.uri()}: {SIZE:,} bytes are needed in {disk}")
        assert f"{free:,} are free" in message
        assert "make room, raise staging.max_bytes, or set staging.folder to a larger disk" in message
        assert proxy.gets() == []

    def test_a_version_larger_than_the_disk_evicts_none(
        self, s3: S3, versions: list[Version], small_disk: Callable[[int], Path]
    ) -> None:
        large = put(s3, {"model.safetensors": bytes(3 * SIZE)}, "models/large")
        disk = small_disk(2 * SIZE + 160 * 1024)
        for version in versions[:2]:
            stage(version, disk).close()
        with pytest.raises(NoSpaceError) as caught:
            stage(large, disk)
        assert f"{large.location.uri()} takes {3 * SIZE:,} bytes in {disk}" in str(caught.value)
        assert "in all: set staging.folder to a larger disk" in str(caught.value)
        assert present(disk, versions) == [0, 1]

    def test_what_is_there_already_needs_no_space(
        self, versions: list[Version], proxy: FaultProxy, small_disk: Callable[[int], Path]
    ) -> None:
        disk = small_disk(SIZE + 160 * 1024)
        proxy.plan = cut_short
        with pytest.raises(Exception, match="AccessDenied"):
            stage(versions[0], disk)
        proxy.plan = lambda request: OK
        assert_complete(stage(versions[0], disk).path, versions[0])

    def test_versions_are_evicted_for_space(
        self, versions: list[Version], small_disk: Callable[[int], Path]
    ) -> None:
        disk = small_disk(2 * SIZE + 160 * 1024)
        for number, version in enumerate(versions):
            stage(version, disk).close()
            used_at(version, disk, number + 1)
        assert present(disk, versions) == [1, 2]

    def test_a_disk_that_fills_up_meanwhile(
        self, versions: list[Version], proxy: FaultProxy, small_disk: Callable[[int], Path]
    ) -> None:
        version, disk = versions[0], small_disk(SIZE + 160 * 1024)
        proxy.hold_after(RANGE_BYTES + 1)
        errors: list[BaseException] = []

        def attempt() -> None:
            try:
                stage(version, disk, concurrency=1)
            except NoSpaceError as error:
                errors.append(error)

        thread = threading.Thread(target=attempt)
        thread.start()
        assert proxy.wait_held()
        other = disk / "other"
        with other.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        proxy.release()
        thread.join()
        [error] = errors
        assert f"the disk of {partial_of(version, disk)} is full" in str(error)
        assert "make room" in str(error)
        assert not (disk / version.folder_name).exists()
        before = marked(version, disk)
        assert before
        # Still full: another attempt says so.
        with pytest.raises(NoSpaceError):
            stage(version, disk)
        other.unlink()
        proxy.forget()
        assert_complete(stage(version, disk).path, version)
        assert sum(exchange.request.num_bytes for exchange in proxy.gets()) < SIZE - RANGE_BYTES + 1

    def test_two_versions_do_not_count_on_the_same_space(
        self, s3: S3, proxy: FaultProxy, small_disk: Callable[[int], Path]
    ) -> None:
        versions = [put(s3, random_content(number), f"models/v{number}") for number in range(4)]
        disk = small_disk(2 * SIZE + 3 * RANGE_BYTES)
        settings = {("eviction", "RESERVE_BYTES"): RANGE_BYTES}
        proxy.hold_after(0)
        with ExitStack() as stack:
            processes = [
                stack.enter_context(
                    Worker(Job(proxy.endpoint, version.location, disk, RANGE_BYTES, settings=settings))
                )
                for version in versions
            ]
            # Two begin, and the others see that there is no room for them before it is gone.
            heard = [process.hear() for process in processes]
            refused = [message for what, message in heard if what == "failed"]
            assert [what for what, _ in heard].count("begins") == 2
            assert len(refused) == 2
            for message in refused:
                assert "no version there can be evicted" in message
            proxy.release()
            for version, process, (what, _) in zip(versions, processes, heard, strict=True):
                if what == "begins":
                    assert process.result() == ("done", str(disk / version.folder_name))
                    assert_complete(disk / version.folder_name, version)
