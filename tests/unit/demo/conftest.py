import os
from pathlib import Path

import pytest

from serve_app.harmony import vocabulary_file


@pytest.fixture(scope="session", autouse=True)
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed vocabulary, where openai-harmony looks for it."""
    folder = tmp_path_factory.mktemp("vocabulary")
    vocabulary_file.write_packaged(folder)
    os.environ.setdefault("TIKTOKEN_ENCODINGS_BASE", str(folder))
    return folder
