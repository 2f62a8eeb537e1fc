"""Garbage of requests that have ended, collected by how much memory it holds.

A call on a Serve handle that goes by gRPC, as with Serve's throughput switch, is held by its own callbacks
when it has ended: a cycle, with the request as it was sent. Python collects such cycles by their number,
whatever they hold, and all of them only when a quarter of all objects are new. Serve freezes what a replica
has imported (`gc.freeze`), which then counts in that quarter without being looked at. So 8,500 calls and more
were kept, and a long prompt is half a megabyte.
"""

from __future__ import annotations

import gc

# A call without its prompt: measured, 167 MB in 8,491 calls of an ingress.
CALL_BYTES = 20_000
# In the pickled list of a prompt: at most 5 bytes, for a token id above 65,535.
TOKEN_BYTES = 5
LIMIT_BYTES = 64 << 20


class CallGarbage:
    """Counts what calls that have ended may hold, and has it collected when that is much."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """`limit_bytes` is how much may be held."""
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    def add(self, num_tokens: int) -> None:
        """Counts a call that has ended, and was sent with so many tokens."""
        self._held_bytes += CALL_BYTES + TOKEN_BYTES * num_tokens
        if self._held_bytes > self._limit_bytes:
            self._held_bytes = 0
            gc.collect()
