"""What a request offers, as far as reading its answer depends on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """The reader's side of a request."""

    tools: frozenset[str] = frozenset()
    """Names of the functions that may be called; empty with `tool_choice: none`."""
    forbidden_tools: frozenset[str] = frozenset()
    """Those that the request defines and `allowed_tools` leaves out. Calls of them are dropped."""
    is_parallel: bool = True
    """False keeps the first call only."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer where they begin in its content."""
    keeps_stop_string: bool = False
    """Whether the content ends behind the stop string (`include_stop_str_in_output`)."""
    is_continued: bool = False
    """Whether the answer begins inside a text on the channel `final` and not with a header."""


@dataclass(frozen=True, slots=True)
class PlainText:
    """Tokens that are read as text, whatever they are: Completions."""

    stop: tuple[str, ...] = ()
    keeps_stop_string: bool = False
    skips_special_tokens: bool = True
    """Whether special tokens are left out of the text, or shown by name."""
    stop_tokens: frozenset[int] = frozenset()
    """Tokens besides the model's own that end the answer and are no part of its text."""
    min_tokens: int = 0
    """Stop strings count behind this many tokens only."""
