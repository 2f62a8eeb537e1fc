from __future__ import annotations

import logging
import subprocess
import sys
import weakref
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from serve_app.private_names.log_files import kept_log_files

IMPORTS_VLLM = """
import logging, logging.handlers, sys
logger = logging.getLogger("ray.serve")
logger.addHandler(logging.handlers.MemoryHandler(1, target=logging.FileHandler(sys.argv[1])))
from serve_app import private_names
private_names.check("serve_app.vllm_adapter")
assert "vllm" in sys.modules
logger.warning("after vLLM")
"""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[MemoryHandler, Path]]:
    """A handler like that of a replica of Serve, and its file."""
    path = tmp_path / "replica.log"
    file = logging.FileHandler(path)
    handler = MemoryHandler(1, target=file)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(handler)
    yield handler, path
    logger.removeHandler(handler)
    handler.close()
    file.close()


def close(handler: logging.Handler) -> None:
    """As `logging.config.dictConfig` does with each handler that there is."""
    logging.shutdown([weakref.ref(handler)])


def test_what_is_logged_reaches_the_file_meanwhile_and_afterwards(log: tuple[MemoryHandler, Path]) -> None:
    handler, path = log
    file = handler.target
    with kept_log_files():
        close(handler)
        logging.getLogger("ray.serve").warning("meanwhile")
    assert handler.target is file
    logging.getLogger("ray.serve").warning("afterwards")
    assert path.read_text().split() == ["meanwhile", "afterwards"]


def test_an_import_that_fails_leaves_the_file_too(log: tuple[MemoryHandler, Path]) -> None:
    handler, _ = log

    def fail() -> None:
        with kept_log_files():
            close(handler)
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert handler.target


@pytest.mark.slow
def test_vllm_is_imported_with_the_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "replica.log"
    subprocess.run([sys.executable, "-c", IMPORTS_VLLM, path], check=True)
    assert path.read_text() == "after vLLM\n"
