"""Nodes with caches of compiled code, and what of them is in S3."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serve_app.config.sections import StagingConfig
from serve_app.staging.compile_cache import CompileCache
from tests.unit.staging.fault_proxy import OK, Fault, FaultProxy, Plan, Request

if TYPE_CHECKING:
    from tests.unit.staging.conftest import S3

ARGUMENTS = {"model": "openai/gpt-oss-20b", "max_num_seqs": 64}
COMPILER = {"vllm": "0.29.0", "device": "NVIDIA H100"}
COMPILED = {
    "vllm/torch_compile_cache/abc/rank_0_0/model": b"graph" * 1000,
    "vllm/modelinfos/GptOss.json": b"{}",
    "triton/KEY/kernel.cubin": os.urandom(5000),
}


class Node:
    """A node with an empty disk, always at the same path: where caches lie is part of their key."""

    def __init__(self, folder: Path, bucket: str | None) -> None:
        self.folder = folder
        self.bucket = bucket

    def cache(self, **changes: Any) -> CompileCache:
        """What a replica of this node makes when it starts."""
        settings = {name: changes.pop(name) for name in ("publish_compile_cache",) if name in changes}
        return CompileCache(
            StagingConfig(folder=str(self.folder), compile_cache=self.bucket, **settings),
            ARGUMENTS | changes.pop("arguments", {}),
            COMPILER | changes,
        )

    def started(self, compiled: dict[str, bytes] | None = None, **changes: Any) -> CompileCache:
        """A replica that is ready; its engine has compiled `compiled`."""
        cache = self.cache(**changes)
        cache.restore()
        write(cache, compiled or {})
        return cache

    def replaced(self) -> None:
        """From here on it is another machine."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write(cache: CompileCache, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (cache.folder.path / path).parent.mkdir(parents=True, exist_ok=True)
        (cache.folder.path / path).write_bytes(content)


def content_of(cache: CompileCache) -> dict[str, bytes]:
    return {path: (cache.folder.path / path).read_bytes() for path in cache.folder.files()}


def publish(cache: CompileCache) -> None:
    """As in production, but waited for."""
    thread = cache.publish()
    assert thread
    thread.join()


def objects_in(s3: S3) -> list[str]:
    return [item["Key"] for item in s3.client.list_objects_v2(Bucket=s3.bucket).get("Contents", [])]


def put(s3: S3, cache: CompileCache, number: int, content: bytes, digest: str | None = None) -> None:
    s3.client.put_object(
        Bucket=s3.bucket,
        Key=f"caches/{cache.key}/{number:05}.tar.gz",
        Body=content,
        Metadata={"sha256": digest or hashlib.sha256(content).hexdigest()},
    )


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]


def on(method: str, ending: str, fault: Fault) -> Plan:
    def plan(request: Request) -> Fault:
        return fault if request.method == method and request.path.endswith(ending) else OK

    return plan


def archives_fetched(proxy: FaultProxy) -> list[Request]:
    return [e.request for e in proxy.log if e.request.method == "GET" and e.request.path.endswith(".tar.gz")]
