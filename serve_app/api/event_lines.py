"""Server-sent events: JSON on one line, also for clients that see more ends of lines than the standard."""

from __future__ import annotations


def on_one_line(json_text: bytes) -> bytes:
    """Returns JSON without what clients that use Python's `splitlines` take for the end of a line."""
    if json_text.isascii():
        return json_text
    return (
        json_text.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )
