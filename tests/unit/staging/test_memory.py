"""A download takes the same memory however large the files are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.staging import manifest as manifests
from serve_app.staging.manifest import Manifest, ManifestFile
from tests.unit.staging.conftest import S3
from tests.unit.staging.processes import Job, Worker

MIB_BYTES = 1024 * 1024
NUM_FILES = 8
FILE_BYTES = 32 * MIB_BYTES


@pytest.mark.slow
def test_256_mib_in_constant_memory(s3: S3, tmp_path: Path) -> None:
    data = bytes(FILE_BYTES)
    (tmp_path / "a").write_bytes(data)
    [one] = manifests.of_folder(tmp_path, ["a"], source="").files
    location = s3.location()
    paths = [f"{number}.safetensors" for number in range(NUM_FILES)]
    for path in paths:
        s3.client.put_object(Bucket=s3.bucket, Key=location.key(path), Body=data)
    files = tuple(ManifestFile(path, FILE_BYTES, one.sha256, one.chunks) for path in paths)
    encoded = Manifest("file:test", None, None, files).encode()
    s3.client.put_object(Bucket=s3.bucket, Key=location.key(manifests.NAME), Body=encoded)
    # As large as a file, since moto reads a whole object for each.
    job = Job(s3.endpoint, location, tmp_path / "node", range_bytes=FILE_BYTES, concurrency=16)
    with Worker(job) as process:
        what, folder = process.result()
        assert what == "done"
        status = Path(f"/proc/{process.process.pid}/status").read_text()
    for path in paths:
        assert (Path(folder) / path).stat().st_size == FILE_BYTES
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    # Two thirds of it are Python and boto3. Whole chunks in memory would be 64 MiB more.
    assert int(peak[1]) * 1024 < 110 * MIB_BYTES
