"""Slips: what of a model's tokens is not harmony as it should be, by kind. Each is read over and counted."""

from __future__ import annotations

from enum import StrEnum


class Slip(StrEnum):
    """The kinds, as counters name them. One occurrence counts once, however its tokens arrive."""

    STRAY_TOKEN = "stray_token"
    """A special token where none of its kind can stand: skipped."""
    STRAY_TEXT = "stray_text"
    """Text between two messages: content, unless it is whitespace or words of a header."""
    SPECIAL_IN_TEXT = "special_in_text"
    """A special token inside a text that neither ends nor begins anything: dropped."""
    NO_END = "no_end"
    """A message that ends because another header begins."""
    NO_START = "no_start"
    """A header or a message that begins without `<|start|>`."""
    NO_MESSAGE = "no_message"
    """A header that ends without `<|message|>`."""
    TEXT_IN_HEADER = "text_in_header"
    """Text in a header that ended without `<|message|>`: content."""
    HEADER_CHANNEL = "header_channel"
    """A channel that is glued to another word, has punctuation around it, stands where the role does, or is
    named more than once."""
    HEADER_RECIPIENT = "header_recipient"
    """A recipient that is named otherwise than by one `to=functions.NAME`."""
    HEADER_JUNK = "header_junk"
    """Words of a header that mean nothing: dropped."""
    NO_CHANNEL = "no_channel"
    """A message without a known channel: its text is content."""
    OTHER_AUTHOR = "other_author"
    """A message in the name of the user, the system or a tool: not shown."""
    BAD_UTF8 = "bad_utf8"
    """Bytes that are no character: U+FFFD."""
    LATE_TOKENS = "late_tokens"
    """Tokens behind the end of the answer: ignored, and counted once an answer."""
