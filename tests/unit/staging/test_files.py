from __future__ import annotations

from pathlib import Path

from serve_app.staging.files import is_weights, to_publish
from tests.unit.staging.versions import write


def test_what_is_published(tmp_path: Path) -> None:
    kept = ["LICENSE", "README.md", "USAGE_POLICY", "a/config.json", "chat_template.jinja", "config.json"]
    kept += ["merges.txt", "model-1.safetensors", "model.safetensors.index.json", "tokenizer.model"]
    left_out = [".cache/a.json", ".gitattributes", ".hidden.json", "manifest.json", "metal/model.safetensors"]
    left_out += ["original/config.json", "picture.png", "pytorch_model.bin"]
    write(tmp_path, dict.fromkeys(kept + left_out, b""))
    assert to_publish(tmp_path) == sorted(kept)


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    write(tmp_path, {"blobs/1": b"{}"})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").symlink_to(tmp_path / "blobs" / "1")
    (tmp_path / "snapshot" / "broken.json").symlink_to(tmp_path / "nowhere")
    assert to_publish(tmp_path / "snapshot") == ["config.json"]


def test_weights() -> None:
    assert is_weights("model-1.safetensors")
    assert is_weights("model.safetensors.index.json")
    assert not is_weights("config.json")
