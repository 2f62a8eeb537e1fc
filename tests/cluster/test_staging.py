"""A node and a bucket: publish the demo checkpoint, stage it, serve it, start again from what is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from serve_app.demo import CACHE, MODEL_NAME, SPECULATOR_NAME
from serve_app.staging import files, objects
from serve_app.staging.objects import S3Location
from serve_app.staging.store import read_manifest
from tests.services import MODEL, ROOT, Service, free_port, running
from tests.waiting import wait_until

pytestmark = pytest.mark.engine

BUCKET = "bucket"
RANGE_BYTES = 32 * 1024 * 1024
DEADLINE_S = 600
GET = re.compile(r"GET (\S+) HTTP")


@dataclass(frozen=True)
class Bucket:
    """An S3 server with an empty bucket, and what it was asked."""

    environment: dict[str, str]
    log: Path

    def location(self, name: str) -> S3Location:
        return S3Location(BUCKET, f"models/{name}")

    def gets(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(GET.findall(self.log.read_text()))

    def stage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "serve_app.stage", *arguments],
            cwd=ROOT,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    log, port = tmp_path_factory.mktemp("s3") / "requests.log", free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        # For the streamer, which otherwise looks for bucket.127.0.0.1.
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }
    with log.open("wb") as sink, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=sink,
            stderr=sink,
        )
        try:
            wait_until(lambda: is_up(environment["AWS_ENDPOINT_URL"]), DEADLINE_S, lambda: "the S3 server")
            for name, value in environment.items():
                patch.setenv(name, value)
            objects.new_client().create_bucket(Bucket=BUCKET)
            yield Bucket(environment, log)
        finally:
            server.terminate()
            server.wait()


def is_up(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


def write_config(path: Path, bucket: Bucket, staging: Path, **engine: object) -> Path:
    """configs/local.yaml, with the bucket for a source."""
    document = yaml.safe_load((ROOT / "configs/local.yaml").read_text())
    arguments = document["applications"][0]["args"]
    arguments["model"]["source"] = bucket.location(MODEL_NAME).uri()
    arguments["speculator"]["source"] = bucket.location(SPECULATOR_NAME).uri()
    arguments["staging"] = {
        "folder": str(staging),
        "range_bytes": RANGE_BYTES,
        "compile_cache": f"s3://{BUCKET}/compile-cache",
    }
    # Little memory: others run beside this one.
    arguments["engine"] |= {"kv_cache_memory_bytes": 1 << 27} | engine
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def serving(bucket: Bucket, config: Path, log: Path) -> Iterator[Service]:
    environment = {
        **bucket.environment,
        "SERVE_VENV": sys.prefix,
        "SERVE_HARDWARE": "cpu",
        # What the shell that runs the tests has must not stand in for what is staged.
        "TIKTOKEN_ENCODINGS_BASE": "",
    }
    with running(["scripts/serve", "--config", str(config)], environment, log) as service:
        yield service


def counts_to_five(service: Service) -> bool:
    with openai.OpenAI(base_url=service.v1, api_key="none") as client:
        messages: Any = [{"role": "user", "content": "Count from 1 to 5"}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    return answer.choices[0].message.content == "1, 2, 3, 4, 5"


def reported(bucket: Bucket, staging: Path) -> list[dict[str, Any]]:
    starts: list[dict[str, Any]] = json.loads(bucket.stage("report", str(staging), "--json"))
    return starts


def archives(bucket: Bucket) -> list[str]:
    listing = objects.new_client().list_objects_v2(Bucket=BUCKET, Prefix="compile-cache/")
    return [item["Key"] for item in listing.get("Contents", [])]


def test_two_replicas_one_download_and_the_next_node(bucket: Bucket, tmp_path: Path) -> None:
    for name in (MODEL_NAME, SPECULATOR_NAME):
        digest = bucket.stage("publish", f"file:{CACHE / name}", bucket.location(name).uri())
        assert read_manifest(objects.new_client(), bucket.location(name)).digest == digest
    before = bucket.gets()

    staging = tmp_path / "first-node"
    config = write_config(tmp_path / "first.yaml", bucket, staging)
    with serving(bucket, config, tmp_path / "first.log") as service:
        service.wait_for_engines(2)
        assert counts_to_five(service)
        asked = bucket.gets() - before
        for name in (MODEL_NAME, SPECULATOR_NAME):
            location = bucket.location(name)
            for file in read_manifest(objects.new_client(), location).files:
                num_ranges = -(-file.size_bytes // RANGE_BYTES)
                count = asked[f"/{BUCKET}/{location.key(file.path)}"]
                if files.is_weights(file.path) or name == SPECULATOR_NAME:
                    assert count == num_ranges, file.path
                else:  # once for the engines, and once for the ingress, which needs no weights
                    assert num_ranges <= count <= 2 * num_ranges, file.path
        starts = reported(bucket, staging)
        assert len(starts) == 2
        assert {start["status"] for start in starts} == {"ready"}
        wait_until(lambda: archives(bucket), DEADLINE_S, lambda: "the compile cache's archive")
        assert len(archives(bucket)) == 1

    # Another node, and the weights straight from the bucket.
    staging = tmp_path / "second-node"
    config = write_config(
        tmp_path / "second.yaml",
        bucket,
        staging,
        load_format="runai_streamer",
        min_replicas=1,
        max_replicas=1,
    )
    with serving(bucket, config, tmp_path / "second.log") as service:
        assert counts_to_five(service)
        assert not list(staging.glob(f"{MODEL_NAME}-????????????????/*.safetensors"))
        [start] = reported(bucket, staging)
        assert start["status"] == "ready"
