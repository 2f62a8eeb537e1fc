from __future__ import annotations

import itertools
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.staging import manifest as manifests
from serve_app.staging.errors import NoSpaceError
from serve_app.staging.manifest import Manifest
from serve_app.staging.partial import PartialFile, PartialFolder, allocated_bytes
from tests.unit.staging.versions import CHUNK_BYTES, SIZES, manifest_of, random_content, write

CONTENT = random_content(0)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return manifest_of(CONTENT)


def fill(file: PartialFile, chunks: list[int] | None = None) -> None:
    """Writes and marks `chunks`, by default all."""
    data = CONTENT[file.entry.path]
    for chunk in range(len(file.entry.chunks)) if chunks is None else chunks:
        start = chunk * CHUNK_BYTES
        file.write(data[start : start + CHUNK_BYTES], start)
        file.mark(chunk)


@pytest.mark.parametrize("seed", range(50))
def test_ranges_are_exactly_what_is_missing(tmp_path: Path, seed: int) -> None:
    numbers = random.Random(seed)
    size = numbers.randrange(1, 40 * CHUNK_BYTES)
    data = numbers.randbytes(size)
    [entry] = manifest_of({"a": data}).files
    present = {chunk for chunk in range(len(entry.chunks)) if numbers.random() < 0.4}
    range_bytes = numbers.choice([1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1, 5 * CHUNK_BYTES, 10**9])
    file = PartialFile(tmp_path / "a", tmp_path / "marks" / "a", entry, CHUNK_BYTES)
    for chunk in present:
        file.mark(chunk)
    ranges = list(file.missing(range_bytes))
    chunks = [chunk for part in ranges for chunk in range(part.first_chunk, part.end_chunk)]
    assert chunks == [chunk for chunk in range(len(entry.chunks)) if chunk not in present]
    assert file.verified_chunks() == sorted(present)
    covered = sum(part.size_bytes for part in ranges)
    present_bytes = sum(len(data[chunk * CHUNK_BYTES :][:CHUNK_BYTES]) for chunk in present)
    assert covered == size - present_bytes
    for part, following in itertools.pairwise(ranges):
        assert part.size_bytes <= max(range_bytes, CHUNK_BYTES)
        # No more requests than are needed: neighbours are apart, or would be too large together.
        most = max(1, range_bytes // CHUNK_BYTES)
        assert part.end_chunk < following.first_chunk or part.end_chunk - part.first_chunk == most
    file.close()


def test_another_attempt_goes_on(tmp_path: Path, manifest: Manifest) -> None:
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        for file in partial.files:
            fill(file, list(range(0, len(file.entry.chunks), 2)))
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        for file in partial.files:
            assert file.verified_chunks() == list(range(0, len(file.entry.chunks), 2))
            assert all(file.still_verified(chunk) for chunk in file.verified_chunks())
            fill(file, list(range(1, len(file.entry.chunks), 2)))
        partial.finish(tmp_path / "final")
    for path, data in CONTENT.items():
        assert (tmp_path / "final" / path).read_bytes() == data
    assert manifests.decode((tmp_path / "final" / ".manifest.json").read_bytes(), "") == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_the_space_is_reserved_before_anything_arrives(tmp_path: Path, manifest: Manifest) -> None:
    with PartialFolder(tmp_path / "partial", manifest):
        files = tmp_path / "partial" / "files"
        for path, size in SIZES.items():
            status = (files / path).stat()
            assert status.st_size == size
            assert status.st_blocks * 512 >= size
        assert allocated_bytes(tmp_path / "partial") == manifest.total_bytes


def test_a_full_disk_shows_when_the_space_is_reserved(
    small_disk: Callable[[int], Path], manifest: Manifest
) -> None:
    disk = small_disk(256 * 1024)
    with pytest.raises(NoSpaceError) as caught, PartialFolder(disk / "partial", manifest):
        pass
    message = str(caught.value)
    assert f"the disk of {disk / 'partial'} is full ({manifest.total_bytes:,} bytes are needed" in message
    assert "make room, or set staging.folder to a larger disk, and start again" in message


def test_marks_that_outlive_their_bytes_are_found(tmp_path: Path, manifest: Manifest) -> None:
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        for file in partial.files:
            fill(file)
    # As after a power loss.
    path = tmp_path / "partial" / "files" / "a.safetensors"
    with path.open("r+b") as lost:
        lost.seek(2 * CHUNK_BYTES)
        lost.write(bytes(CHUNK_BYTES))
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        wrong = {
            (file.entry.path, chunk)
            for file in partial.files
            for chunk in file.verified_chunks()
            if not file.still_verified(chunk)
        }
        assert wrong == {("a.safetensors", 2)}
        assert [part.first_chunk for file in partial.files for part in file.missing(1)] == [2]
    # The mark is gone for later attempts, too.
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        assert [part.first_chunk for file in partial.files for part in file.missing(1)] == [2]


def test_a_file_that_lost_its_end(tmp_path: Path, manifest: Manifest) -> None:
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        for file in partial.files:
            fill(file)
        lost = next(file for file in partial.files if file.entry.path == "a.safetensors")
        with (tmp_path / "partial" / "files" / "a.safetensors").open("r+b") as opened:
            opened.truncate(CHUNK_BYTES + 1)
        assert lost.still_verified(0)
        assert not lost.still_verified(1)
        assert not lost.still_verified(5)


def test_what_is_not_complete_does_not_get_its_final_name(tmp_path: Path, manifest: Manifest) -> None:
    with PartialFolder(tmp_path / "partial", manifest) as partial:
        for file in partial.files[:-1]:
            fill(file)
        with pytest.raises(AssertionError, match="is not complete"):
            partial.finish(tmp_path / "final")
    assert not (tmp_path / "final").exists()


def test_files_are_closed(tmp_path: Path, manifest: Manifest) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with PartialFolder(tmp_path / "partial", manifest):
        assert len(set(Path("/proc/self/fd").iterdir()) - before) >= 2 * len(SIZES)
    assert not any(
        str(tmp_path) in str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
    )


def test_allocated_bytes(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"1" * 10_000, "b/c": b"2" * 10})
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**9)
    assert allocated_bytes(tmp_path) == 10_010
    assert allocated_bytes(tmp_path / "nothing") == 0


def test_allocated_bytes_of_what_another_process_removes(tmp_path: Path) -> None:
    ready = threading.Event()

    def come_and_go() -> None:
        for _ in range(100):
            write(tmp_path, {f"version/{number}/a": b"1" for number in range(5)})
            ready.set()
            shutil.rmtree(tmp_path / "version")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    ready.wait()
    while thread.is_alive():
        assert 0 <= allocated_bytes(tmp_path) <= 5
    thread.join()
