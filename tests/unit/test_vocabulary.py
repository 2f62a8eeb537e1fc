import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app import vocabulary
from serve_app.demo.unfolding import VOCABULARY_FILE, VOCABULARY_SHA256
from serve_app.vocabulary import VARIABLE, install

# Nothing but a folder could answer: there is no such proxy, and no other copy in the temporary folder.
PROGRAM = """
import openai_harmony
encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
print(encoding.encode("hello<|return|>", allowed_special="all"))
"""


def test_a_folder_that_is_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "CACHE", tmp_path)
    monkeypatch.setenv(VARIABLE, "/somewhere/else")
    install()
    assert os.environ[VARIABLE] == "/somewhere/else"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [None, ""])
def test_install_unfolds_and_names_the_folder(
    tmp_path: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back in the end
    if before is None:
        monkeypatch.delenv(VARIABLE)
    install()
    folder = tmp_path / "cache" / "vocabulary"
    assert os.environ[VARIABLE] == str(folder)
    content = (folder / VOCABULARY_FILE).read_bytes()
    assert hashlib.sha256(content).hexdigest() == VOCABULARY_SHA256

    # A second process of the node finds it there.
    stamp = (folder / VOCABULARY_FILE).stat().st_mtime_ns
    os.environ[VARIABLE] = ""
    install()
    assert os.environ[VARIABLE] == str(folder)
    assert (folder / VOCABULARY_FILE).stat().st_mtime_ns == stamp


def test_harmony_loads_with_it_and_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "")
    install()
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"TMPDIR": str(tmp_path), "TIKTOKEN_RS_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[24912, 200002]\n"
