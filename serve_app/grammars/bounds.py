"""What a structural tag may hold, said before any of xgrammar sees it.

xgrammar parses a schema's patterns by recursion: some ten thousand groups in one another overflow a stack of
eight megabytes. A worker has a smaller stack than an engine, so what passes there has room.
"""

from __future__ import annotations

import re
from typing import Any

from serve_app.harmony.content_format import MAX_GRAMMAR_CHARS, MAX_PATTERN_CHARS

MAX_PATTERN_DEPTH = 100

# Escapes and classes are no groups. Nothing is given back and tried again, so that the time is linear.
_PATTERN_PART = re.compile(r"\\.|\[(?:[^\]\\]|\\.)*+(?:\]|(?P<unclosed>\\?+))|(?P<bracket>[()])", re.DOTALL)


def bounds_problem(tag: Any) -> str | None:
    """Returns what of a decoded structural tag is too large, or None. Its nesting is bounded already."""
    waiting = [tag]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            patterns = value.get("patternProperties")
            for pattern in (value.get("pattern"), *(patterns if isinstance(patterns, dict) else ())):
                if isinstance(pattern, str) and (problem := pattern_problem(pattern)):
                    return problem
            grammar = value.get("grammar")
            if isinstance(grammar, str) and len(grammar) > MAX_GRAMMAR_CHARS:
                return f"a grammar has {len(grammar):,} characters and may have {MAX_GRAMMAR_CHARS:,}"
    return None


def pattern_problem(pattern: str) -> str | None:
    """Returns what makes a regular expression too large, or None."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"a pattern has {len(pattern):,} characters and may have {MAX_PATTERN_CHARS:,}"
    depth = 0
    for part in _PATTERN_PART.finditer(pattern):
        if part["unclosed"] is not None:
            return "a pattern has a bracket that is not closed"
        if part["bracket"]:
            depth += 1 if part["bracket"] == "(" else -1
            if depth > MAX_PATTERN_DEPTH:
                return f"a pattern has more than {MAX_PATTERN_DEPTH} groups in one another"
    return None
