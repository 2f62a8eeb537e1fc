"""A real S3 API over HTTP: moto's server, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from serve_app.staging import objects
from serve_app.staging.objects import S3Location

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
