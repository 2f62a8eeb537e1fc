from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve_app.staging import manifest as manifests
from serve_app.staging.errors import ManifestError, NotPublishedError, StagingError
from serve_app.staging.files import is_weights
from serve_app.staging.partial import PartialFolder
from serve_app.staging.store import Store, read_manifest
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, Fault, FaultProxy
from tests.unit.staging.versions import (
    CHUNK_BYTES,
    RANGE_BYTES,
    Version,
    asked_for,
    assert_complete,
    marked,
    partial_of,
    put,
    random_content,
    stage,
)


@pytest.fixture
def store(version: Version, proxy: FaultProxy, tmp_path: Path) -> Store:
    return Store(tmp_path / "node", range_bytes=RANGE_BYTES, concurrency=4)


def test_a_version_is_downloaded_once(store: Store, version: Version, proxy: FaultProxy) -> None:
    staged = store.stage(version.location)
    assert staged.path == store.folder / version.folder_name
    assert staged.manifest == version.manifest
    assert_complete(staged.path, version)
    proxy.forget()
    assert store.stage(version.location).path == staged.path
    assert proxy.gets() == []
    assert [exchange.request.path[-13:] for exchange in proxy.log] == ["manifest.json"]


def test_the_same_version_elsewhere_in_the_bucket(s3: S3, store: Store, version: Version) -> None:
    other = put(s3, version.content, "models/other")
    first, second = store.stage(version.location), store.stage(other.location)
    assert first.path != second.path
    assert_complete(second.path, other)


def test_some_files(store: Store, version: Version, proxy: FaultProxy) -> None:
    few = store.stage(version.location, keep=lambda path: not is_weights(path))
    assert sorted(path.name for path in few.path.rglob("*.*") if path.is_file()) == [
        ".manifest.json",
        "config.json",
        "empty.txt",
        "tokenizer.json",
    ]
    assert {exchange.request.path.rsplit("/", 1)[-1] for exchange in proxy.gets()} == {
        "config.json",
        "tokenizer.json",
    }
    whole = store.stage(version.location)
    assert whole.path != few.path
    assert_complete(whole.path, version)
    # Once all of them are there, nobody needs the few.
    assert store.stage(version.location, keep=lambda path: not is_weights(path)).path == whole.path


def test_a_pinned_digest(store: Store, version: Version, proxy: FaultProxy) -> None:
    assert_complete(store.stage(version.location, digest=version.manifest.digest[:8]).path, version)
    with pytest.raises(StagingError) as caught:
        store.stage(version.location, digest="0123abcd")
    assert f"{version.location.uri()} holds version {version.manifest.digest[:16]}, not 0123abcd" in str(
        caught.value
    )
    assert "give the digest that `stage publish` printed" in str(caught.value)


@pytest.mark.parametrize("length", [8, 16, 20, 64])
def test_a_pinned_digest_that_is_there_needs_no_s3(
    store: Store, version: Version, proxy: FaultProxy, length: int
) -> None:
    """A replica that starts again, or another one, while S3 cannot be reached."""
    place = store.stage(version.location).path
    proxy.forget()
    digest = version.manifest.digest[:length]
    for keep in (None, lambda path: not is_weights(path)):
        assert store.stage(version.location, digest=digest, keep=keep).path == place
    assert proxy.log == []
    # Neither another version nor a folder that is not whole stands in for it.
    with pytest.raises(StagingError, match="holds version"):
        store.stage(version.location, digest="0123abcd")
    (place / ".manifest.json").unlink()
    proxy.forget()
    store.stage(version.location, digest=digest)
    assert [exchange.request.path[-13:] for exchange in proxy.log] == ["manifest.json"]


def test_nothing_is_published(s3: S3, tmp_path: Path) -> None:
    location = s3.location("models/none")
    s3.client.put_object(Bucket=s3.bucket, Key=location.key("config.json"), Body=b"{}")
    store = Store(tmp_path, range_bytes=RANGE_BYTES, concurrency=4)
    with pytest.raises(NotPublishedError) as caught:
        store.stage(location)
    assert str(caught.value).startswith(f"{location.uri()}/manifest.json does not exist")
    assert f"stage publish SOURCE {location.uri()}" in str(caught.value)


def test_no_such_bucket(s3: S3) -> None:
    location = type(s3.location())("no-such-bucket", "a/b")
    with pytest.raises(StagingError, match="check bucket and prefix") as caught:
        read_manifest(s3.client, location)
    assert type(caught.value) is StagingError


def test_a_manifest_without_a_checksum_beside_it(s3: S3, version: Version) -> None:
    key = version.location.key(manifests.NAME)
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=version.manifest.encode())
    assert read_manifest(s3.client, version.location) == version.manifest
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=version.manifest.encode()[:-30])
    with pytest.raises(ManifestError, match=f"{version.location.uri()}/manifest.json is no manifest"):
        read_manifest(s3.client, version.location)


def test_an_interrupted_download_goes_on(store: Store, version: Version, proxy: FaultProxy) -> None:
    proxy.plan = lambda request: (
        Fault(status=403, code="AccessDenied") if request.first_byte == RANGE_BYTES else OK
    )
    with pytest.raises(StagingError):
        Store(store.folder, range_bytes=RANGE_BYTES, concurrency=1).stage(version.location)
    assert not (store.folder / version.folder_name).exists()
    present = marked(version, store.folder)
    assert present
    proxy.plan = lambda request: OK
    proxy.forget()
    assert_complete(store.stage(version.location).path, version)
    assert not present & asked_for(version, (exchange.request for exchange in proxy.gets()))


def test_bytes_that_a_power_loss_took(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    partial_folder = partial_of(version, tmp_path)
    with PartialFolder(partial_folder, version.manifest) as partial:
        for file in partial.files:
            data = version.content[file.entry.path]
            for chunk in range(len(file.entry.chunks)):
                start = chunk * CHUNK_BYTES
                file.write(data[start : start + CHUNK_BYTES], start)
                file.mark(chunk)
    with (partial_folder / "files" / "b.safetensors").open("r+b") as lost:
        lost.seek(3 * CHUNK_BYTES)
        lost.write(bytes(CHUNK_BYTES))
    assert_complete(stage(version, tmp_path).path, version)
    asked = asked_for(version, (exchange.request for exchange in proxy.gets()))
    assert asked == {("b.safetensors", 3)}


def test_marks_whose_files_are_gone(version: Version, proxy: FaultProxy, tmp_path: Path) -> None:
    # Killed after the rename: the marks stay. Then evicted, and staged again.
    first = stage(version, tmp_path)
    for file in version.manifest.files:
        marks = partial_of(version, tmp_path) / "marks" / file.path
        marks.parent.mkdir(parents=True, exist_ok=True)
        marks.write_bytes(b"\1" * len(file.chunks))
    first.close()
    first.path.rename(tmp_path / "elsewhere")
    assert_complete(stage(version, tmp_path).path, version)
    assert list((tmp_path / ".partial").iterdir()) == []


def test_versions_of_one_folder_are_apart(s3: S3, store: Store, version: Version) -> None:
    newer = put(s3, random_content(1), version.location.prefix)
    staged = store.stage(newer.location)
    assert_complete(staged.path, newer)
    assert staged.path.name == newer.folder_name != version.folder_name


def test_a_folder_that_cannot_be_written(version: Version, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StagingError) as caught:
        stage(version, tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert "check that staging.folder can be written" in str(caught.value)


def test_the_time_of_the_last_use(store: Store, version: Version) -> None:
    staged = store.stage(version.location)
    mark = store.folder / ".in-use" / version.manifest.digest[:16]
    os.utime(mark, (1, 1))
    staged.close()
    assert mark.stat().st_mtime > 1
    os.utime(mark, (1, 1))
    staged.close()
    assert mark.stat().st_mtime == 1
    store.stage(version.location)
    assert mark.stat().st_mtime > 1
