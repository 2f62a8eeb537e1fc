"""Reads from S3 that take no longer than they may.

A socket's timeout sees a connection that brings nothing. One that brings a packet now and then would hold up
a node's start for days, and Ctrl-C with it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from urllib3.exceptions import HTTPError, ProtocolError

if TYPE_CHECKING:
    from types import TracebackType

    from urllib3.response import BaseHTTPResponse

# What must arrive within the timeout. With 20 s, 52 kB/s: at that pace eight connections take nine hours for
# gpt-oss-20b, so it is a path that is broken, and another connection may find a better one. Reads of 256 KiB
# take a tenth more CPU time.
PIECE_BYTES = 1024 * 1024


class BrokenOffError(HTTPError):
    """The answer came too slowly, or nobody wants it any more."""


class Watchdog:
    """Reads pieces of answers, from many threads. Leave its context when nobody reads any more."""

    def __init__(self, timeout_s: float) -> None:
        self.stopped = threading.Event()
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._reads: dict[BaseHTTPResponse, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="staging-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def read(self, stream: BaseHTTPResponse, most_bytes: int = PIECE_BYTES) -> bytes:
        """Returns the next bytes, at most `PIECE_BYTES`, and none at the end of a complete body.

        Raises urllib3's `HTTPError`, of which `BrokenOffError` is one.
        """
        with self._lock:
            if self.stopped.is_set():
                raise BrokenOffError("stopped")
            self._reads[stream] = time.monotonic()
        problem, data = None, b""
        try:
            data = stream.read(min(most_bytes, PIECE_BYTES))
        except Exception as error:
            problem = error
        with self._lock:
            is_broken_off = self._reads.pop(stream, None) is None
        # Then what has been read may be anything: TLS no longer decrypts on a connection that is shut down.
        if is_broken_off:
            raise BrokenOffError(f"less than {PIECE_BYTES:,} bytes in {self._timeout_s:.0f} s") from problem
        if problem:
            raise problem
        # botocore tells urllib3 not to look; of its own look, this goes past.
        if not data and stream.length_remaining:
            raise ProtocolError(f"{stream.length_remaining:,} bytes of the answer are missing")
        return data

    def stop(self) -> None:
        """Breaks off all reads, and those to come."""
        with self._lock:
            self.stopped.set()
            for stream in list(self._reads):
                self._break_off(stream)

    def _watch(self) -> None:
        while not self._done.wait(self._timeout_s / 4):
            with self._lock:
                for stream, since in list(self._reads.items()):
                    if time.monotonic() - since > self._timeout_s:
                        self._break_off(stream)

    def _break_off(self, stream: BaseHTTPResponse) -> None:
        del self._reads[stream]
        # Unless it has just come to its end, and its connection went back to the pool.
        with suppress(OSError, RuntimeError, ValueError):
            stream.shutdown()
