"""A real S3 API over HTTP: moto's server, in this process, and a proxy before it that breaks things."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from moto.server import ThreadedMotoServer

from serve_app.staging import cache_publisher, objects
from serve_app.staging.objects import S3Location
from tests.unit.staging.caches import Node
from tests.unit.staging.fault_proxy import FaultProxy
from tests.unit.staging.versions import Version, put, random_content

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


@dataclass(frozen=True)
class S3:
    """A bucket of the test's own. boto3 finds the server through the environment, as in production."""

    endpoint: str
    bucket: str
    client: S3Client

    def location(self, prefix: str = "models/tiny") -> S3Location:
        return S3Location(self.bucket, prefix)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    # A line for each request would drown what a failed test has to say.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> S3:
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = objects.new_client()
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    client.create_bucket(Bucket=bucket)
    return S3(s3_server, bucket, client)


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between S3 and the clients that the test makes. `s3.client` goes to S3 directly."""
    proxy = FaultProxy(s3.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is in this process: no need to spare it."""
    monkeypatch.setattr(objects, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(objects, "MAX_DELAY_S", 0.01)
    # botocore's own, for what is published.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.001)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many bytes, a tmpfs."""
    folder = tmp_path / "disk"

    def make(size_bytes: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount a tmpfs: {done.stderr.strip()}")
        return folder

    yield make
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def version(s3: S3) -> Version:
    """A version that is published."""
    return put(s3, random_content(0))


# --- caches of compiled code ---------------------------------------------------------------------------


@pytest.fixture
def quick_publisher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher in this process otherwise: its own costs most of a second."""

    run_process = subprocess.run

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if cache_publisher.__name__ not in command:
            return run_process(command, **options)
        out, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(errors):
            status = cache_publisher.main(command[3:])
        return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())

    if "own_process" not in request.fixturenames:
        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(os, "nice", lambda by: 0)


@pytest.fixture
def own_process() -> None:
    """For tests that are about the publisher's process."""


@pytest.fixture
def node(tmp_path: Path, s3: S3, quick_publisher: None) -> Node:
    return Node(tmp_path / "staged", f"s3://{s3.bucket}/caches")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "ray.serve")
    return caplog
