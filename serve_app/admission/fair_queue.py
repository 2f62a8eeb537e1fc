"""Who waits, and whose turn it is: tiers in order, and in a tier the keys in turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items that wait, each in a tier (0 comes first) and under a key.

    Within a tier the keys take turns, one item each, so that a key with a thousand items delays the others by
    one; within a key the one that came first is first (fair queueing: Nagle, RFC 970). Items that were added
    as first come before all of them.
    """

    def __init__(self, num_tiers: int) -> None:
        self._tiers: list[OrderedDict[str, OrderedDict[Item, None]]] = [
            OrderedDict() for _ in range(num_tiers)
        ]
        self._first: list[OrderedDict[Item, None]] = [OrderedDict() for _ in range(num_tiers)]
        self._lengths = [0] * num_tiers

    def __len__(self) -> int:
        return sum(self._lengths)

    def num_before(self, tier: int) -> int:
        """Items of this tier and those that come first: what a new one waits for, at the most."""
        return sum(self._lengths[: tier + 1])

    def num_before_of(self, tier: int, key: str) -> int:
        """Items that a new one of this tier and key waits for, since the keys take turns."""
        keys = self._tiers[tier]
        turn = len(keys.get(key, ())) + 1
        before = sum(self._lengths[:tier]) + len(self._first[tier])
        return before + sum(min(len(items), turn) for items in keys.values())

    def add(self, item: Item, tier: int, key: str, *, first: bool = False) -> None:
        """At the end of its key's items, or of those that go before all others of their tier."""
        items = self._first[tier] if first else self._tiers[tier].setdefault(key, OrderedDict())
        items[item] = None
        self._lengths[tier] += 1

    def remove(self, item: Item, tier: int, key: str) -> None:
        """Takes an item out. Raises `KeyError` when it does not wait."""
        if item in self._first[tier]:
            del self._first[tier][item]
        else:
            keys = self._tiers[tier]
            del keys[key][item]
            if not keys[key]:
                del keys[key]
        self._lengths[tier] -= 1

    def first_tier(self) -> int | None:
        """The tier of the item whose turn it is; None when nobody waits."""
        return next((tier for tier, length in enumerate(self._lengths) if length), None)

    def pop(self, tier: int) -> Item:
        """Takes out the item of this tier whose turn it is."""
        self._lengths[tier] -= 1
        if self._first[tier]:
            return self._first[tier].popitem(last=False)[0]
        keys = self._tiers[tier]
        key, items = next(iter(keys.items()))
        item, _ = items.popitem(last=False)
        if items:
            keys.move_to_end(key)
        else:
            del keys[key]
        return item

    def last(self, after_tier: int, may_go: Callable[[Item], bool]) -> Item | None:
        """The one who gives way when the queue is full: of the last tier, of the key with most, the newest.

        Never one of those that go first.
        None when no tier after `after_tier` has one who may go.
        """
        for tier in range(len(self._tiers) - 1, after_tier, -1):
            for items in sorted(self._tiers[tier].values(), key=len, reverse=True):
                for item in reversed(items):
                    if may_go(item):
                        return item
        return None
