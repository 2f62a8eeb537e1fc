"""A folder to a prefix in S3: the files, each with its SHA-256, and the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from serve_app.staging import files, objects
from serve_app.staging import manifest as manifests
from serve_app.staging.errors import ManifestError, NotPublishedError, StagingError
from serve_app.staging.manifest import Manifest, ManifestFile
from serve_app.staging.objects import S3Location
from serve_app.staging.progress import Progress
from serve_app.staging.store import read_manifest

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

PART_BYTES = 64 * 1024 * 1024
CONCURRENCY = 8
# So that a later `publish` need not send it again.
DIGEST_METADATA = objects.DIGEST_METADATA


@dataclass(frozen=True)
class Published:
    """What a publication has come to."""

    manifest: Manifest
    sent_bytes: int
    present_bytes: int
    """Of files that were there already, with the same checksum."""


def publish(
    folder: Path,
    location: S3Location,
    *,
    source: str,
    revision: str | None = None,
    replace: bool = False,
    show: Callable[[str], Progress] = Progress.logged,
    client: S3Client | None = None,
) -> Published:
    """Makes `folder` a version at `location`. Done again after an interruption, it goes on where it was.

    Args:
        source: where the folder came from, for the manifest; `revision` likewise.
        replace: also where another version is published. Until the new one is complete there is none, and
            nodes that are staging the old one fail: versions are better given prefixes of their own.
        show: makes the progress display of a title.

    Raises `StagingError`.
    """
    client = client or objects.new_client(CONCURRENCY, max_attempts=objects.MAX_ATTEMPTS)
    paths = files.to_publish(folder)
    if "config.json" not in paths or not any(path.endswith(".safetensors") for path in paths):
        raise StagingError(f"{folder} is no checkpoint: config.json or *.safetensors is missing")
    try:
        before = _states(folder, paths)
        with show(str(folder)).of(sum(size for size, _ in before), "reading") as on_bytes:
            manifest = manifests.of_folder(
                folder,
                paths,
                source=source,
                revision=revision,
                license_name=license_of(folder),
                on_bytes=on_bytes,
            )
        return _publish(folder, location, manifest, replace, show, client, before)
    except (ClientError, BotoCoreError) as error:
        raise objects.explained(error, f"publishing to {location.uri()}") from error
    except (Boto3Error, OSError) as error:
        raise StagingError(
            f"publishing {folder} to {location.uri()}: {error}; start again, what has been sent stays"
        ) from error


def license_of(folder: Path) -> str | None:
    """Returns the licence's name as the model card in `folder` gives it, or None."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    import yaml
    from huggingface_hub import ModelCard

    try:
        found = getattr(ModelCard.load(card).data, "license", None)
    except (ValueError, yaml.YAMLError):
        return None
    if isinstance(found, list):
        return ", ".join(map(str, found))
    return None if found is None else str(found)


def _states(folder: Path, paths: Iterable[str]) -> list[tuple[int, int]]:
    """Size and time of modification of each file."""
    states = ((folder / path).stat() for path in paths)
    return [(state.st_size, state.st_mtime_ns) for state in states]


def _publish(
    folder: Path,
    location: S3Location,
    manifest: Manifest,
    replace: bool,
    show: Callable[[str], Progress],
    client: S3Client,
    before: list[tuple[int, int]],
) -> Published:
    bucket, manifest_key = location.bucket, location.key(manifests.NAME)
    there: Manifest | None = None
    is_there = True
    try:
        # By a client that does not try again by itself: `read_manifest` does.
        there = read_manifest(objects.new_client(), location)
    except NotPublishedError:
        is_there = False
    except ManifestError:
        if not replace:
            raise
    if there and there.digest != manifest.digest and not replace:
        raise StagingError(
            f"{location.uri()} holds another version ({there.source}, digest {there.digest}): publish to "
            "a prefix of its own, or give --replace"
        )
    with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="publish") as pool:
        is_present = pool.map(lambda file: _is_present(client, location, file), manifest.files)
        missing = [file for file, present in zip(manifest.files, is_present, strict=True) if not present]
    sent_bytes = sum(file.size_bytes for file in missing)
    if missing or there is None or there.digest != manifest.digest:
        if is_there:
            client.delete_object(Bucket=bucket, Key=manifest_key)
        with show(location.uri()).of(sent_bytes, "sending") as on_bytes:
            for file in missing:
                _send(client, location, folder, file, on_bytes)
        if _states(folder, (file.path for file in manifest.files)) != before:
            raise StagingError(f"files in {folder} have changed since they were read: start again")
        content = manifest.encode()
        client.put_object(
            Bucket=bucket,
            Key=manifest_key,
            Body=content,
            ContentType="application/json",
            Metadata={DIGEST_METADATA: hashlib.sha256(content).hexdigest()},
        )
    return Published(manifest, sent_bytes, manifest.total_bytes - sent_bytes)


def _is_present(client: S3Client, location: S3Location, file: ManifestFile) -> bool:
    try:
        answer = client.head_object(Bucket=location.bucket, Key=location.key(file.path))
    except ClientError as error:
        if objects.status(error) == 404:
            return False
        raise
    return (answer["ContentLength"], answer["Metadata"].get(DIGEST_METADATA)) == (
        file.size_bytes,
        file.sha256,
    )


def _send(
    client: S3Client,
    location: S3Location,
    folder: Path,
    file: ManifestFile,
    on_bytes: Callable[[int], None],
) -> None:
    client.upload_file(
        str(folder / file.path),
        location.bucket,
        location.key(file.path),
        # S3 compares each part with this checksum before it takes it.
        ExtraArgs={"Metadata": {DIGEST_METADATA: file.sha256}, "ChecksumAlgorithm": "SHA256"},
        Callback=on_bytes,
        Config=TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=CONCURRENCY
        ),
    )
