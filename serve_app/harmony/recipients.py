"""Recipients: which tool a model means by a name, whatever its namespace and what leaks into it."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAMESPACE = "functions."
# What else names end with when the words behind them are glued to them.
_LEAKS = ("json", "code", "analysis", "commentary", "final")
# More of these steps than a name could need, few enough that a name of any length costs little.
_MAX_STEPS = 16
_OTHER_THAN_NAME = re.compile(r"[^\w-]*")
_OF_NAME = re.compile(r"[\w-]")


@dataclass(frozen=True, slots=True)
class Names:
    """Names that a recipient may be meant to be."""

    offered: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    """Known, and not offered."""

    def __contains__(self, name: str) -> bool:
        return name in self.offered or name in self.others


def resolve(name: str, names: Names) -> str | None:
    """Returns the known name that is meant by what a model said behind `to=`, None if there is none.

    `functions.` before it and what leaks into its end (markers, content types, channels, punctuation) are
    taken off one by one, until a known name is left.
    """
    for _ in range(_MAX_STEPS):
        if name in names:
            return name
        shorter = _shorter(name)
        if shorter == name:
            return None
        name = shorter
    return None


def bare(name: str) -> str:
    """Returns a name without the punctuation around it."""
    match = _OTHER_THAN_NAME.match(name)
    start, end = match.end() if match else 0, len(name)
    # A pattern for the end would look at each stretch of punctuation once for each of its characters.
    while end > start and not _OF_NAME.match(name, end - 1):
        end -= 1
    return name[start:end]


def _shorter(name: str) -> str:
    if name.startswith(NAMESPACE):
        return name.removeprefix(NAMESPACE)
    if "<|" in name:
        return name[: name.index("<|")]
    if (stripped := bare(name)) != name:
        return stripped
    for word in _LEAKS:
        if name.endswith(word):
            return name.removesuffix(word)
    return name
