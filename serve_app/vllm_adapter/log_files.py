"""Serve's log files, which outlive what vLLM does to logging while an engine starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler


@contextmanager
def kept_log_files() -> Iterator[None]:
    """Serve's handlers write to the same files afterwards as before.

    vLLM configures logging when it makes an engine, which closes all handlers of the process. Serve's handler
    of a replica has no file then: what is logged is lost. A controller that has restarted, and asks for the
    file's path, gets an error instead, and stops the replica.
    """
    handlers = [one for one in logging.getLogger("ray.serve").handlers if isinstance(one, MemoryHandler)]
    files = [handler.target for handler in handlers]
    try:
        yield
    finally:
        for handler, file in zip(handlers, files, strict=True):
            handler.setTarget(file)
            handler.flush()
