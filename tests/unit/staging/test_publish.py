from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from serve_app.staging import files, objects
from serve_app.staging import manifest as manifests
from serve_app.staging import publish as publishing
from serve_app.staging.errors import ManifestError, NotPublishedError, StagingError
from serve_app.staging.objects import S3Location
from serve_app.staging.publish import license_of, publish
from serve_app.staging.store import Store, read_manifest
from tests.unit.staging.conftest import S3
from tests.unit.staging.fault_proxy import OK, Fault, FaultProxy, Request
from tests.unit.staging.versions import RANGE_BYTES, random_content, write

SIZES = {
    "config.json": 100,
    "LICENSE": 200,
    "sub/tokenizer.json": 0,
    "model-1.safetensors": 70_000,
    "model-2.safetensors": 50_000,
}
CONTENT = random_content(0, SIZES)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "source", CONTENT)


@pytest.fixture
def location(s3: S3) -> S3Location:
    return s3.location()


def stored(s3: S3, location: S3Location) -> dict[str, bytes]:
    """The objects below the prefix."""
    found = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=location.key(""))
    return {
        item["Key"].removeprefix(location.key("")): s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])[
            "Body"
        ].read()
        for item in found.get("Contents", [])
    }


def writes(proxy: FaultProxy) -> list[tuple[str, str]]:
    """What changed the bucket, in order."""
    return [
        (exchange.request.method, exchange.request.path.rpartition("/")[2])
        for exchange in proxy.log
        if exchange.request.method not in ("GET", "HEAD")
    ]


def assert_staged(location: S3Location, folder: Path, content: dict[str, bytes]) -> None:
    staged = Store(folder, range_bytes=RANGE_BYTES, concurrency=4).stage(location)
    assert {path: (staged.path / path).read_bytes() for path in content} == content


def test_files_and_the_manifest_last(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    published = publish(source, location, source="hf:a/b", revision="abc")
    assert (published.sent_bytes, published.present_bytes) == (sum(SIZES.values()), 0)
    names = [name for _, name in writes(proxy)]
    assert sorted(names[:-1]) == sorted(Path(path).name for path in SIZES)
    assert names[-1] == "manifest.json"
    there = stored(s3, location)
    assert manifests.decode(there.pop("manifest.json"), "") == published.manifest
    assert there == CONTENT
    manifest = published.manifest
    assert (manifest.source, manifest.revision, manifest.license) == ("hf:a/b", "abc", None)
    assert manifest.total_bytes == sum(SIZES.values())
    assert_staged(location, tmp_path / "node", CONTENT)


def test_objects_say_what_they_hold(s3: S3, location: S3Location, source: Path) -> None:
    publish(source, location, source="file:test")
    for path, data in stored(s3, location).items():
        metadata = s3.client.head_object(Bucket=s3.bucket, Key=location.key(path))["Metadata"]
        assert metadata == {"sha256": hashlib.sha256(data).hexdigest()}


def test_large_files_go_in_parts(
    s3: S3, location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # S3's smallest part.
    monkeypatch.setattr(publishing, "PART_BYTES", 5 * 1024 * 1024)
    content = random_content(0, {"config.json": 10, "a.safetensors": 11 * 1024 * 1024})
    sent = publish(write(tmp_path / "source", content), location, source="file:test")
    assert stored(s3, location)["a.safetensors"] == content["a.safetensors"]
    assert publish(tmp_path / "source", location, source="file:test").present_bytes == sent.sent_bytes


def test_publishing_again_sends_nothing(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy
) -> None:
    first = publish(source, location, source="file:test")
    proxy.forget()
    again = publish(source, location, source="file:elsewhere")
    assert (again.sent_bytes, again.present_bytes) == (0, sum(SIZES.values()))
    assert again.manifest.digest == first.manifest.digest
    assert writes(proxy) == []


def test_what_is_there_with_the_same_checksum_is_not_sent(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    publish(source, location, source="file:test")
    key = location.key("model-1.safetensors")
    s3.client.delete_object(Bucket=s3.bucket, Key=location.key("manifest.json"))
    s3.client.delete_object(Bucket=s3.bucket, Key=location.key("config.json"))
    # Of the same size, from somebody else.
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=bytes(SIZES["model-1.safetensors"]))
    proxy.forget()
    published = publish(source, location, source="file:test")
    assert sorted(writes(proxy)) == [
        ("PUT", "config.json"),
        ("PUT", "manifest.json"),
        ("PUT", "model-1.safetensors"),
    ]
    assert published.present_bytes == sum(SIZES.values()) - published.sent_bytes == 50_200
    assert_staged(location, tmp_path / "node", CONTENT)


def test_an_object_that_was_lost_is_repaired_and_meanwhile_nothing_is_there(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    publish(source, location, source="file:test")
    s3.client.delete_object(Bucket=s3.bucket, Key=location.key("config.json"))
    proxy.forget()
    publish(source, location, source="file:test")
    assert writes(proxy) == [("DELETE", "manifest.json"), ("PUT", "config.json"), ("PUT", "manifest.json")]
    assert_staged(location, tmp_path / "node", CONTENT)


def test_replacing_another_version(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    first = publish(source, location, source="file:first").manifest
    newer = CONTENT | {"model-1.safetensors": b"other weights"}
    write(source, newer)
    proxy.forget()
    with pytest.raises(StagingError) as caught:
        publish(source, location, source="file:test")
    assert str(caught.value) == (
        f"{location.uri()} holds another version (file:first, digest {first.digest}): publish to a prefix of "
        "its own, or give --replace"
    )
    assert writes(proxy) == []
    publish(source, location, source="file:test", replace=True)
    assert writes(proxy) == [
        ("DELETE", "manifest.json"),
        ("PUT", "model-1.safetensors"),
        ("PUT", "manifest.json"),
    ]
    assert_staged(location, tmp_path / "node", newer)


@pytest.mark.parametrize("manifest", [b"{", b'{"format": 2}'])
def test_a_manifest_that_cannot_be_used_is_replaced_when_told_to(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path, manifest: bytes
) -> None:
    s3.client.put_object(Bucket=s3.bucket, Key=location.key("manifest.json"), Body=manifest)
    with pytest.raises(ManifestError, match="publish this version again, with --replace"):
        publish(source, location, source="file:test")
    assert writes(proxy) == []
    publish(source, location, source="file:test", replace=True)
    assert writes(proxy)[0] == ("DELETE", "manifest.json")
    assert_staged(location, tmp_path / "node", CONTENT)


def test_a_failure_in_the_middle_leaves_no_version(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.plan = lambda request: (
        Fault(status=403, code="AccessDenied") if is_put(request, "model-2.safetensors") else OK
    )
    with pytest.raises(StagingError) as caught:
        publish(source, location, source="file:test")
    assert f"to {location.uri()}: " in str(caught.value)
    assert "AccessDenied" in str(caught.value)
    assert "start again, what has been sent stays" in str(caught.value)
    with pytest.raises(NotPublishedError):
        read_manifest(s3.client, location)
    proxy.plan = lambda request: OK
    proxy.forget()
    publish(source, location, source="file:test")
    assert ("PUT", "model-1.safetensors") not in writes(proxy)
    assert_staged(location, tmp_path / "node", CONTENT)


def is_put(request: Request, name: str) -> bool:
    return request.method == "PUT" and request.path.endswith(name)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, code="SlowDown"),
        Fault(status=500, code="InternalError"),
        Fault(reset_before_answer=True),
    ],
)
def test_publishing_gets_over(
    location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    proxy.plan = lambda request: fault if request.attempt <= 3 else OK
    publish(source, location, source="file:test")
    assert_staged(location, tmp_path / "node", CONTENT)


def test_nobody_answers(
    location: S3Location, source: Path, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MAX_ATTEMPTS", 4)
    proxy.plan = lambda request: Fault(status=503, code="SlowDown")
    with pytest.raises(StagingError, match="check the network and AWS_ENDPOINT_URL"):
        publish(source, location, source="file:test")
    # Not each attempt as often again.
    assert len(proxy.log) == 4


def test_a_file_that_changes_meanwhile(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy, tmp_path: Path
) -> None:
    def plan(request: Request) -> Fault:
        if is_put(request, "model-1.safetensors"):
            (source / "model-2.safetensors").write_bytes(bytes(SIZES["model-2.safetensors"]))
        return OK

    proxy.plan = plan
    with pytest.raises(
        StagingError, match=f"files in {source} have changed since they were read: start again"
    ):
        publish(source, location, source="file:test")
    with pytest.raises(NotPublishedError):
        read_manifest(s3.client, location)
    proxy.plan = lambda request: OK
    publish(source, location, source="file:test")
    changed = CONTENT | {"model-2.safetensors": bytes(SIZES["model-2.safetensors"])}
    assert_staged(location, tmp_path / "node", changed)


def test_a_file_that_goes_away_meanwhile(
    s3: S3, location: S3Location, source: Path, proxy: FaultProxy
) -> None:
    def plan(request: Request) -> Fault:
        (source / "model-2.safetensors").unlink(missing_ok=True)
        return OK

    proxy.plan = plan
    with pytest.raises(StagingError, match=r"model-2\.safetensors"):
        publish(source, location, source="file:test")
    with pytest.raises(NotPublishedError):
        read_manifest(s3.client, location)


@pytest.mark.parametrize("missing", [["config.json"], ["model-1.safetensors", "model-2.safetensors"]])
def test_what_is_no_checkpoint(
    location: S3Location, source: Path, proxy: FaultProxy, missing: list[str]
) -> None:
    (source / "model.safetensors.index.json").write_text("{}")
    for path in missing:
        (source / path).unlink()
    assert files.to_publish(source)
    with pytest.raises(StagingError, match=f"{source} is no checkpoint: config.json or "):
        publish(source, location, source="file:test")
    assert proxy.log == []


@pytest.mark.parametrize(
    ("card", "name"),
    [
        (b"---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        (b"---\nlicense: [mit, other]\n---\n", "mit, other"),
        (b"---\nlicense: 5\n---\n", "5"),
        (b"---\ntags: [a]\n---\n", None),
        (b"---\nlicense: [a\n---\n", None),
        (b"---\n- a\n---\n", None),
        (b"\xff\xfe", None),
        (b"# A model", None),
        (b"", None),
    ],
)
def test_the_licence(
    location: S3Location, source: Path, tmp_path: Path, card: bytes, name: str | None
) -> None:
    (source / "README.md").write_bytes(card)
    assert license_of(source) == name
    publish(source, location, source="file:test")
    assert_staged(location, tmp_path / "node", CONTENT)
