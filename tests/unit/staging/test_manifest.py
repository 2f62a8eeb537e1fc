from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from serve_app.staging import manifest as manifests
from serve_app.staging.errors import ManifestError
from serve_app.staging.manifest import Manifest, decode, is_safe, of_folder
from tests.unit.staging.versions import manifest_of, random_content, write

CHUNK_BYTES = 10
ORIGIN = "s3://bucket/prefix/manifest.json"


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25])
def test_digests_of_the_whole_and_of_each_chunk(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    write(tmp_path, {"a": data})
    [file] = of_folder(tmp_path, ["a"], source="file:x", chunk_bytes=CHUNK_BYTES).files
    assert (file.path, file.size_bytes, file.sha256) == ("a", size, hashlib.sha256(data).hexdigest())
    starts = range(0, size, CHUNK_BYTES)
    assert list(file.chunks) == [
        hashlib.sha256(data[start : start + CHUNK_BYTES]).hexdigest() for start in starts
    ]


def test_chunks_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    data = random.Random(0).randbytes(2 * manifests.READ_BYTES + 5)
    write(tmp_path, {"a": data})
    read: list[int] = []
    manifest = of_folder(tmp_path, ["a"], source="", chunk_bytes=len(data) - 3, on_bytes=read.append)
    assert sum(read) == manifest.total_bytes == len(data)
    assert [hashlib.sha256(data[:-3]).hexdigest(), hashlib.sha256(data[-3:]).hexdigest()] == list(
        manifest.files[0].chunks
    )


def test_what_is_encoded_can_be_decoded() -> None:
    manifest = manifest_of(random_content(0))
    assert decode(manifest.encode(), ORIGIN) == manifest
    assert manifest.total_bytes == sum(map(len, random_content(0).values()))


def test_equal_folders_give_equal_bytes(tmp_path: Path) -> None:
    content = random_content(0)
    write(tmp_path, content)
    paths = list(content)
    first, second = (of_folder(tmp_path, order, source="file:x") for order in (paths, paths[::-1]))
    assert first.encode() == second.encode()


def test_the_digest_is_of_content_and_paths_alone() -> None:
    content = {"a": b"1", "b": b"2"}
    digest = manifest_of(content).digest
    assert digest == manifest_of(content).digest
    assert len(digest) == 64
    for other in ({"a": b"1", "b": b"3"}, {"a": b"1", "c": b"2"}, {"a": b"1"}, {"a": b"2", "b": b"1"}):
        assert manifest_of(other).digest != digest
    assert manifest_of(content, chunk_bytes=1).digest != digest
    elsewhere = Manifest(
        "hf:a/b", "commit", "MIT", manifest_of(content).files, manifest_of(content).chunk_bytes
    )
    assert elsewhere.digest == digest


def test_a_part_is_a_version_of_its_own() -> None:
    whole = manifest_of({"config.json": b"{}", "a.safetensors": b"weights"})
    part = whole.only(lambda path: path.endswith(".json"))
    assert [file.path for file in part.files] == ["config.json"]
    assert part.total_bytes == 2
    assert part.digest != whole.digest
    assert whole.only(lambda path: True).digest == whole.digest


@pytest.mark.parametrize("path", ["a", "a.json", "a/b/c.json", "a b", "ä", "a\\b", "..a.json"[2:], "a..b"])
def test_safe_paths(path: str) -> None:
    assert is_safe(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/..",
        "a//b",
        "a/",
        "./a",
        ".hidden",
        "a/.hidden/b",
        "a\0b",
        "manifest.json",
    ],
)
def test_unsafe_paths(path: str) -> None:
    assert not is_safe(path)
    with pytest.raises(ManifestError, match="is damaged"):
        decode(changed({"path": path}), ORIGIN)


def changed(file: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """The manifest of files `a` and `b`, with other fields; `file` changes those of `a`."""
    content = json.loads(manifest_of({"a": b"1" * 15, "b": b"2"}, CHUNK_BYTES).encode())
    content["files"][0] |= file or {}
    return json.dumps(content | fields).encode()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (changed({"path": "b"}), "a path twice"),
        (changed({"path": "b/c"}), "path 'b'"),
        (changed({"path": "b/c/d"}), "path 'b'"),
        (changed({"size_bytes": 9}), "a: 2 chunks for 9 bytes"),
        (changed({"size_bytes": 21}), "a: 2 chunks for 21 bytes"),
        (changed({"size_bytes": -1, "chunks": []}), "a: 0 chunks for -1 bytes"),
        (changed({"sha256": "0" * 63}), "a: a digest that is no SHA-256"),
        (changed({"sha256": "A" * 64}), "a: a digest that is no SHA-256"),
        (changed({"chunks": ["0" * 64, "0" * 64 + "\n"]}), "a: a digest that is no SHA-256"),
        (changed(files=[]), "no files"),
        (changed(chunk_bytes=0), "chunks of 0 bytes"),
        (changed(chunk_bytes=-1), "chunks of -1 bytes"),
    ],
)
def test_damaged_manifests(content: bytes, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        decode(content, ORIGIN)
    assert str(caught.value).startswith(f"{ORIGIN} is damaged ({problem}")
    assert "publish this version again, with --replace" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<Error/>",
        b"\xff",
        b'{"source": "a\xff"}',
        b'{"a":' + b"[" * 100_000,
        changed({"size_bytes": "1"}),
        changed({"size_bytes": 1.5}),
        changed(files={}),
        changed(format="1"),
    ],
)
def test_what_is_no_manifest(content: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        decode(content, ORIGIN)
    assert str(caught.value).startswith(f"{ORIGIN} is no manifest (")
    assert "publish this version again, with --replace" in str(caught.value)


@pytest.mark.parametrize("content", [changed(format=2), b'{"format": 2, "pieces": {}}'])
def test_a_newer_format(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"has format 2, and this release reads 1: update it, or publish"):
        decode(content, ORIGIN)


def test_fields_that_a_later_release_adds_are_ignored() -> None:
    assert decode(changed(comment="new"), ORIGIN) == decode(changed(), ORIGIN)


def test_damage_anywhere_is_noticed_or_gives_another_version() -> None:
    numbers = random.Random(0)
    whole = manifest_of({"a": b"1" * 15, "b/c": b"2"}, CHUNK_BYTES)
    content = whole.encode()
    for length in range(len(content) - 2):
        with pytest.raises(ManifestError):
            decode(content[:length], ORIGIN)
    for _ in range(2000):
        damaged = bytearray(content)
        damaged[numbers.randrange(len(content))] = numbers.randrange(256)
        try:
            manifest = decode(bytes(damaged), ORIGIN)
        except ManifestError:
            continue
        assert manifest.digest != whole.digest or manifest.files == whole.files
