import os
from pathlib import Path

import pytest

from serve_app import sources
from serve_app.config import StagingConfig
from serve_app.config.source import Source
from serve_app.sources import SourceError


def resolve(source: str, revision: str | None, *, weights: bool = True) -> str:
    return sources.resolve(Source.parse(source), revision, StagingConfig(), weights=weights).path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("weights", [True, False])
def test_a_folder(checkpoint: Path, weights: bool) -> None:
    assert resolve(f"file:{checkpoint}", None, weights=weights) == str(checkpoint)


def test_home(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert resolve("file:~/checkpoint", None) == str(checkpoint)


@pytest.mark.parametrize("location", ["$WHERE/checkpoint", "${WHERE}/checkpoint"])
def test_a_variable(checkpoint: Path, location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", str(checkpoint.parent))
    assert resolve(f"file:{location}", None) == str(checkpoint)


def test_a_variable_that_holds_home(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    monkeypatch.setenv("WHERE", "~")
    assert resolve("file:$WHERE/checkpoint", None) == str(checkpoint)


def test_the_result_is_absolute_and_free_of_links(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint.parent / "link").symlink_to(checkpoint)
    monkeypatch.chdir(checkpoint.parent)
    assert resolve("file:link", None) == str(checkpoint)
    assert resolve("file:./checkpoint/../link", None) == str(checkpoint)


@pytest.mark.parametrize("made", ["nothing", "empty folder", "config.json is a folder", "a file"])
def test_no_checkpoint_there(tmp_path: Path, made: str) -> None:
    folder = tmp_path / "missing"
    if made == "a file":
        folder.write_text("{}")
    elif made != "nothing":
        folder.mkdir()
        if made == "config.json is a folder":
            (folder / "config.json").mkdir()
    with pytest.raises(SourceError) as caught:
        resolve(f"file:{folder}", None)
    assert str(caught.value) == (
        f"file:{folder}: no config.json in {folder}. The demo checkpoint is made by "
        f"`python -m serve_app.demo`; scripts/serve does that by itself."
    )


def test_the_message_shows_what_was_written_and_where_that_led(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", str(tmp_path))
    with pytest.raises(SourceError) as caught:
        resolve("file:$WHERE/no", None)
    assert str(caught.value).startswith(f"file:$WHERE/no: no config.json in {tmp_path}/no.")


def test_the_hub_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # huggingface_hub reads the variable when it is imported; tests/conftest.py sets it before that.
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = "hf:no-such-organisation/no-such-model"
    for revision, named in [(None, "main"), ("abc123", "abc123")]:
        with pytest.raises(SourceError) as caught:
            resolve(source, revision)
        message = str(caught.value)
        assert message.startswith(f"{source} (revision {named}) cannot be downloaded: ")
        assert message.endswith(
            "Check the name, HF_TOKEN for a gated repository, and the network; "
            "or give s3://BUCKET/PREFIX or file:FOLDER."
        )


@pytest.mark.parametrize(("source", "revision"), [("hf:a/b/c", "main"), ("hf:a/b/c@v1", "v1")])
def test_a_name_that_the_hub_cannot_have(source: str, revision: str) -> None:
    with pytest.raises(SourceError, match=rf"^hf:a/b/c \(revision {revision}\) cannot be downloaded: "):
        resolve(source, None)
