import os
from pathlib import Path

import pytest

from serve_app.demo.unfolding import VOCABULARY_FILE, vocabulary_bytes


@pytest.fixture(scope="session", autouse=True)
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed vocabulary, where openai-harmony looks for it."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / VOCABULARY_FILE).write_bytes(vocabulary_bytes())
    os.environ.setdefault("TIKTOKEN_ENCODINGS_BASE", str(folder))
    return folder
