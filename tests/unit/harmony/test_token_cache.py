"""Tokens that are kept, up to a number of bytes."""

from __future__ import annotations

from serve_app.harmony.token_cache import ENTRY_BYTES, TokenCache


def test_the_least_recently_used_makes_room() -> None:
    cache = TokenCache(5 * (ENTRY_BYTES + 14))
    for key in "abcde":
        cache.put(key, [1, 2, 3], key_bytes=2)
    assert list(cache.get("a") or ()) == [1, 2, 3]
    cache.put("f", [4, 5, 6], key_bytes=2)
    assert [key for key in "abcdef" if cache.get(key) is not None] == list("acdef")
    assert cache.num_bytes == cache.max_bytes


def test_one_entry_does_not_push_out_all_others() -> None:
    cache = TokenCache(4000)
    cache.put("small", [1], key_bytes=5)
    cache.put("large", [1] * 1000, key_bytes=5)
    assert cache.get("large") is None
    assert cache.get("small") is not None


def test_the_same_key_counts_once() -> None:
    cache = TokenCache(4000)
    for _ in range(10):
        cache.put("key", [1], key_bytes=3)
    assert cache.num_bytes == ENTRY_BYTES + 7
