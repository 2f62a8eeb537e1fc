import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.harmony import vocabulary_file
from serve_app.harmony.vocabulary_file import (
    FILE_NAME,
    SHA256,
    VARIABLE,
    VocabularyError,
    from_tokenizer,
    install,
)

# Nothing but a folder could answer: there is no such proxy, and no other copy in the temporary folder.
PROGRAM = """
import openai_harmony
encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
print(encoding.encode("hello<|return|>", allowed_special="all"))
"""


def test_a_folder_that_is_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_file, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "/somewhere/else")
    install()
    assert os.environ[VARIABLE] == "/somewhere/else"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [None, ""])
def test_install_unfolds_and_names_the_folder(
    tmp_path: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary_file, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back in the end
    if before is None:
        monkeypatch.delenv(VARIABLE)
    install()
    folder = tmp_path / "cache"
    assert os.environ[VARIABLE] == str(folder)
    content = (folder / FILE_NAME).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256

    # A second process of the node finds it there.
    stamp = (folder / FILE_NAME).stat().st_mtime_ns
    os.environ[VARIABLE] = ""
    install()
    assert os.environ[VARIABLE] == str(folder)
    assert (folder / FILE_NAME).stat().st_mtime_ns == stamp


def test_harmony_loads_with_it_and_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_file, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "")
    install()
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"TMPDIR": str(tmp_path), "TIKTOKEN_RS_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[24912, 200002]\n"


# What `python -m serve_app.demo` writes is a tokenizer of all of harmony's tokens.
@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from serve_app.demo.tokenizer import write_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary_file.place(folder / "vocabulary", vocabulary_file.packaged)
    write_tokenizer(folder / "vocabulary" / FILE_NAME, folder)
    return folder / "tokenizer.json"


@pytest.mark.slow
def test_it_is_rebuilt_from_a_tokenizer(tokenizer: Path) -> None:
    assert hashlib.sha256(from_tokenizer(tokenizer)).hexdigest() == SHA256


@pytest.mark.slow
def test_another_vocabulary_is_noticed(tokenizer: Path, tmp_path: Path) -> None:
    content = json.loads(tokenizer.read_bytes())
    content["model"]["vocab"]["hello"], content["model"]["vocab"]["world"] = 1, 2
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(content))
    with pytest.raises(VocabularyError, match="does not hold harmony's vocabulary"):
        from_tokenizer(other)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"model": {"vocab": {"\u4e2d": 0}}}', '{"model": {"vocab": 1}}']
)
def test_no_byte_level_tokenizer(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json is no byte-level tokenizer"):
        from_tokenizer(path)


@pytest.mark.slow
@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_install_rebuilds_it_and_falls_back_on_the_package(
    tokenizer: Path, tmp_path: Path, has_tokenizer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary_file, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "")
    asked: list[str] = []

    verified = vocabulary_file.packaged()

    def packaged() -> bytes:
        asked.append("package")
        return verified

    monkeypatch.setattr(vocabulary_file, "packaged", packaged)
    install(tokenizer.parent if has_tokenizer else tmp_path)
    assert asked == ([] if has_tokenizer else ["package"])
    content = (tmp_path / "cache" / FILE_NAME).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256


def test_a_model_with_another_tokenizer_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vocabulary_file, "CACHE", tmp_path / "cache")
    monkeypatch.setenv(VARIABLE, "")
    (tmp_path / "tokenizer.json").write_text("{}")
    install(tmp_path)
    assert "is no byte-level tokenizer" in caplog.text
    assert (tmp_path / "cache" / FILE_NAME).is_file()
