"""The key of sealed reasoning: a file's, or one that all processes of a cluster share."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from serve_app.sealing_key import NUM_BYTES, SealingKeyError, sealing_key

KEY = bytes(range(NUM_BYTES))


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(base64.b64encode(KEY) + b"\n")
    assert sealing_key(str(path)) == KEY


@pytest.mark.parametrize("content", [b"", b"short", base64.b64encode(KEY[1:]), b"\xff" * 44])
def test_a_file_without_a_key_says_how_to_make_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(SealingKeyError, match="openssl rand -base64 32"):
        sealing_key(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SealingKeyError, match="cannot be read"):
        sealing_key(str(tmp_path / "none"))


class Store:
    """Ray's control store, as two ingresses see it."""

    def __init__(self) -> None:
        self.values: dict[tuple[bytes, bytes], bytes] = {}

    def put(self, key: bytes, value: bytes, *, overwrite: bool, namespace: bytes) -> bool:
        is_there = (namespace, key) in self.values
        if overwrite or not is_there:
            self.values[namespace, key] = value
        return is_there

    def get(self, key: bytes, *, namespace: bytes) -> bytes | None:
        return self.values.get((namespace, key))


def test_whoever_asks_first_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.experimental import internal_kv

    store: Any = Store()
    monkeypatch.setattr(internal_kv, "_internal_kv_put", store.put)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", store.get)
    keys = {sealing_key(None) for _ in range(3)}
    assert len(keys) == 1
    assert len(keys.pop()) == NUM_BYTES


def test_a_ray_without_the_store_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.experimental import internal_kv

    monkeypatch.delattr(internal_kv, "_internal_kv_put")
    with pytest.raises(SealingKeyError, match=r"ingress\.sealing_key_file"):
        sealing_key(None)
