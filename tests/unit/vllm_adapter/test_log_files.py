from __future__ import annotations

import logging
import subprocess
import sys
import weakref
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import NoReturn

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's


# In a process of its own, whose logging this changes.
VLLM_CONFIGURES_LOGGING = """
import contextlib, logging, logging.handlers, sys
logger = logging.getLogger("ray.serve")
handler = logging.handlers.MemoryHandler(1, target=logging.FileHandler(sys.argv[1]))
logger.addHandler(handler)
from vllm.config.logging import LoggingConfig
from vllm.logger import configure_logging
from serve_app.vllm_adapter.log_files import kept_log_files
with kept_log_files():
    configure_logging(LoggingConfig())
    assert handler.target is None, "it leaves other handlers alone now: this module can go"
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
    from serve_app.vllm_adapter.log_files import kept_log_files

    handler, path = log
    file = handler.target
    with kept_log_files():
        close(handler)
        logging.getLogger("ray.serve").warning("meanwhile")
    assert handler.target is file
    logging.getLogger("ray.serve").warning("afterwards")
    assert path.read_text().split() == ["meanwhile", "afterwards"]


def test_a_start_that_fails_leaves_the_file_too(log: tuple[MemoryHandler, Path]) -> None:
    from serve_app.vllm_adapter import TokenEngine

    handler, _ = log

    def fail(_: object) -> NoReturn:
        close(handler)
        raise RuntimeError("no engine")

    with pytest.raises(RuntimeError, match="no engine"):
        TokenEngine({}, fail)
    assert handler.target


@pytest.mark.slow
def test_vllm_configures_logging_with_the_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "replica.log"
    subprocess.run([sys.executable, "-c", VLLM_CONFIGURES_LOGGING, path], check=True)
    assert path.read_text() == "after vLLM\n"
