"""The command line of staging, against a real S3 API."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from serve_app.stage import main
from serve_app.staging.store import read_manifest
from tests.unit.staging.conftest import S3

CARD = "---\nlicense: apache-2.0\n---\n# A model\n"
COMMIT = "5c8e1b2d3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c"


def write_checkpoint(folder: Path) -> Path:
    """A folder as the hub has it for gpt-oss, weights three times over."""
    for path, content in {
        "config.json": "{}",
        "generation_config.json": "{}",
        "model-00000-of-00001.safetensors": "weights",
        "model.safetensors.index.json": "{}",
        "chat_template.jinja": "",
        "README.md": CARD,
        "LICENSE": "Apache",
        "USAGE_POLICY": "Be kind",
        "original/model.safetensors": "again",
        "original/config.json": "{}",
        "metal/model.bin": "and again",
        ".gitattributes": "",
        "picture.png": "",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


SERVING = {
    "config.json",
    "generation_config.json",
    "model-00000-of-00001.safetensors",
    "model.safetensors.index.json",
    "chat_template.jinja",
    "README.md",
    "LICENSE",
    "USAGE_POLICY",
}


def test_publish_and_fetch(s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_checkpoint(tmp_path / "checkpoint")
    location = s3.location()
    assert main(["publish", f"file:{source}", location.uri()]) == 0
    published = read_manifest(s3.client, location)
    assert {file.path for file in published.files} == SERVING
    assert (published.source, published.revision) == (f"file:{source}", None)
    assert published.license == "apache-2.0"
    digest = capsys.readouterr().out.strip()
    assert digest == published.digest

    assert main(["fetch", location.uri(), str(tmp_path / "node"), "--digest", digest[:8]]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == tmp_path / "node" / f"tiny-{digest[:16]}"
    for path in SERVING:
        assert (folder / path).read_bytes() == (source / path).read_bytes()


def test_publish_from_the_hub(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a download leaves it: huggingface_hub is offline here and looks nowhere else.
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--openai--gpt-oss-tiny"
    write_checkpoint(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    location = s3.location("models/gpt-oss-tiny")
    assert main(["publish", "hf:openai/gpt-oss-tiny", location.uri()]) == 0
    published = read_manifest(s3.client, location)
    assert {file.path for file in published.files} == SERVING
    assert (published.source, published.revision) == ("hf:openai/gpt-oss-tiny", COMMIT)
    assert main(["publish", f"hf:openai/gpt-oss-tiny@{COMMIT}", location.uri()]) == 0


def test_another_version_is_not_replaced_by_accident(
    s3: S3,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_checkpoint(tmp_path / "checkpoint")
    location = s3.location().uri()
    assert main(["publish", f"file:{source}", location]) == 0
    first = capsys.readouterr().out
    (source / "config.json").write_text(json.dumps({"a": 1}))
    assert main(["publish", f"file:{source}", location]) == 1
    problem = capsys.readouterr().err
    assert f"{location} holds another version" in problem
    assert "--replace" in problem
    assert main(["publish", f"file:{source}", location, "--replace"]) == 0
    assert capsys.readouterr().out != first
    assert main(["fetch", location, str(tmp_path / "node"), "--digest", first[:8]]) == 1
    assert f"not {first[:8]}: give the digest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            ["fetch", "s3://{bucket}/nothing", "{folder}"],
            "s3://{bucket}/nothing/manifest.json does not exist",
        ),
        (["fetch", "s3://no-such-bucket/a", "{folder}"], "NoSuchBucket"),
        (["publish", "file:{folder}", "s3://{bucket}/a"], "no config.json in {folder}"),
        (["publish", "hf:a/b", "s3://{bucket}/a"], "hf:a/b (revision main) cannot be downloaded"),
        (["publish", "ftp:a", "s3://{bucket}/a"], "ftp:a: unknown kind of source"),
    ],
)
def test_problems_are_one_line_and_exit_with_1(
    s3: S3,
    tmp_path: Path,
    arguments: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"bucket": s3.bucket, "folder": str(tmp_path)}
    assert main([argument.format(**names) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = [line for line in captured.err.splitlines() if line.startswith("stage: ")]
    assert problem.format(**names) in line


def test_a_folder_without_weights_is_no_checkpoint(
    s3: S3,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["publish", f"file:{tmp_path}", s3.location().uri()]) == 1
    assert f"{tmp_path} is no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("location", ["bucket/a", "s3://bucket", "https://bucket/a"])
def test_a_location_that_is_none(location: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fetch", location])
    assert caught.value.code == 2
    assert f"{location!r} is not s3://BUCKET/PREFIX" in capsys.readouterr().err
