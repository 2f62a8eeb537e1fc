"""Versions of checkpoints in S3 with small chunks, so that small files have many."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.staging import manifest as manifests
from serve_app.staging import objects
from serve_app.staging.manifest import Manifest
from serve_app.staging.objects import S3Location
from serve_app.staging.store import StagedFolder, Store
from tests.unit.staging.fault_proxy import Request

if TYPE_CHECKING:
    from tests.unit.staging.conftest import S3

CHUNK_BYTES = 16 * 1024
# Four chunks a range.
RANGE_BYTES = 4 * CHUNK_BYTES

# 1 byte, nothing, less than a chunk, exactly ranges, and a remainder.
SIZES = {
    "config.json": 1,
    "empty.txt": 0,
    "sub/tokenizer.json": CHUNK_BYTES - 1,
    "a.safetensors": 2 * RANGE_BYTES,
    "b.safetensors": 2 * RANGE_BYTES + CHUNK_BYTES + 17,
}
NUM_RANGES = 7
# 131 chunks, 35 ranges.
LARGE = {
    "config.json": 1,
    "a.safetensors": 16 * RANGE_BYTES,
    "b/c.safetensors": 16 * RANGE_BYTES + CHUNK_BYTES + 17,
}
SMALL = {"config.json": 100, "model.safetensors": 3 * CHUNK_BYTES}


@dataclass(frozen=True)
class Version:
    """A version that lies in S3."""

    location: S3Location
    manifest: Manifest
    content: Mapping[str, bytes]

    @property
    def folder_name(self) -> str:
        return f"{self.location.name}-{self.manifest.digest[:16]}"


def random_content(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, bytes]:
    numbers = random.Random(seed)
    return {path: numbers.randbytes(size) for path, size in sizes.items()}


def write(folder: Path, content: Mapping[str, bytes]) -> Path:
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def manifest_of(content: Mapping[str, bytes], chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), content)
        return manifests.of_folder(Path(folder), content, source="file:test", chunk_bytes=chunk_bytes)


def put(s3: S3, content: Mapping[str, bytes], prefix: str = "models/tiny") -> Version:
    """Publishes `content` as `publish` does, in smaller chunks."""
    version = Version(s3.location(prefix), manifest_of(content), content)
    for path, data in content.items():
        s3.client.put_object(Bucket=s3.bucket, Key=version.location.key(path), Body=data)
    encoded = version.manifest.encode()
    s3.client.put_object(
        Bucket=s3.bucket,
        Key=version.location.key(manifests.NAME),
        Body=encoded,
        Metadata={objects.DIGEST_METADATA: hashlib.sha256(encoded).hexdigest()},
    )
    return version


def assert_complete(folder: Path, version: Version) -> None:
    """`folder` holds the version's files, byte for byte, and nothing else."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert manifests.decode(found.pop(f".{manifests.NAME}"), "") == version.manifest
    assert found == version.content


def stage(
    version: Version, folder: Path, *, concurrency: int = 4, max_bytes: int | None = None
) -> StagedFolder:
    """Stages the version with a client of its own, as a new process would."""
    store = Store(folder, max_bytes=max_bytes, range_bytes=RANGE_BYTES, concurrency=concurrency)
    return store.stage(version.location)


def partial_of(version: Version, folder: Path) -> Path:
    return folder / ".partial" / version.manifest.digest[:16]


def marked(version: Version, folder: Path) -> set[tuple[str, int]]:
    """The chunks, as path and number, that an interrupted download has marked. All of them are right."""
    partial, found = partial_of(version, folder), set()
    for path, data in version.content.items():
        marks = partial / "marks" / path
        for chunk, mark in enumerate(marks.read_bytes() if marks.exists() else b""):
            if mark:
                start = chunk * CHUNK_BYTES
                with (partial / "files" / path).open("rb") as file:
                    file.seek(start)
                    assert file.read(CHUNK_BYTES) == data[start : start + CHUNK_BYTES]
                found.add((path, chunk))
    return found


def asked_for(version: Version, requests: Iterable[Request]) -> set[tuple[str, int]]:
    """The chunks, as path and number, that ranged GETs are about."""
    prefix = f"/{version.location.bucket}/{version.location.prefix}/"
    return {
        (request.path.removeprefix(prefix), chunk)
        for request in requests
        if request.first_byte is not None and request.last_byte is not None
        for chunk in range(request.first_byte // CHUNK_BYTES, request.last_byte // CHUNK_BYTES + 1)
    }


def all_chunks(version: Version) -> set[tuple[str, int]]:
    return {(file.path, chunk) for file in version.manifest.files for chunk in range(len(file.chunks))}
