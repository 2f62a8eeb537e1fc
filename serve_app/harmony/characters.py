"""Characters: the bytes of tokens to text, as they come. A token may end in the middle of a character."""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Final

REPLACEMENT: Final = "\ufffd"
_REPLACEMENT_BYTES = REPLACEMENT.encode()


class Characters:
    """Decodes UTF-8. What is none becomes U+FFFD and is counted."""

    __slots__ = ("num_bad", "pending")

    def __init__(self, pending: bytes = b"") -> None:
        self.pending = pending
        """The bytes of a character that is not complete."""
        self.num_bad = 0

    def decode(self, data: bytes) -> str:
        """Returns the characters that `data` completes; how the bytes are cut into calls does not matter."""
        if self.pending:
            data = self.pending + data
        try:
            text, num_bytes = utf_8_decode(data, "strict", False)
        except UnicodeDecodeError:
            text, num_bytes = utf_8_decode(data, "replace", False)
            # A model may well say U+FFFD itself.
            self.num_bad += text.count(REPLACEMENT) - data[:num_bytes].count(_REPLACEMENT_BYTES)
        self.pending = data[num_bytes:]
        return text

    def end(self) -> str:
        """Returns what stands for a character that was not completed, and forgets it."""
        if not self.pending:
            return ""
        self.pending = b""
        self.num_bad += 1
        return REPLACEMENT
