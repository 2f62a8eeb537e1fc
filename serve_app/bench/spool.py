"""Keeps what was received until it is read: in memory first, then in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise

from serve_app.bench.request_record import Raw

MEMORY_BYTES = 256 * 2**20


class Spool:
    """Takes finished requests at the price of one copy, and gives them back in order, once."""

    def __init__(self) -> None:
        # Closed by `read`, which may be long after this method.
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115
        self._kept: list[tuple[Raw, list[int]]] = []

    def add(self, raw: Raw) -> None:
        """Keep a request; its pieces are taken from it."""
        ends = [0]
        for piece in raw.pieces:
            ends.append(ends[-1] + len(piece))
        self._file.write(b"".join(raw.pieces))
        raw.pieces = []
        self._kept.append((raw, ends))

    def read(self) -> Iterator[Raw]:
        """Yields the requests whole again."""
        with self._file:
            self._file.seek(0)
            for raw, ends in self._kept:
                content = self._file.read(ends[-1])
                raw.pieces = [content[begin:end] for begin, end in pairwise(ends)]
                yield raw
