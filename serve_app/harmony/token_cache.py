"""Tokens of texts that come again: tools and instructions, the history of a conversation."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Hashable

# What an entry takes beside its text and tokens, roughly: key, array and dictionary.
ENTRY_BYTES = 300
_TOKEN_BYTES = 4


class TokenCache:
    """The tokens of what was used last, up to a number of bytes. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[array[int], int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> array[int] | None:
        """Returns the tokens, or None where they are not known."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, tokens: list[int], key_bytes: int) -> None:
        """Keeps the tokens of a key of about that size. The least recently used make room."""
        num_bytes = key_bytes + _TOKEN_BYTES * len(tokens) + ENTRY_BYTES
        # One that takes a large part of the cache would push out all others.
        if num_bytes > self.max_bytes // 4:
            return
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = array("I", tokens), num_bytes
            self.num_bytes += num_bytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._entries.popitem(last=False)[1][1]
