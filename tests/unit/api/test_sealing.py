"""Sealed reasoning: read back with the key, told apart without it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.sealing import MAX_SEALED_CHARS, PREFIX, Sealer, UnsealError
from tests.examples import examples

SEALER = Sealer(b"a key of the service")


@examples(100)
@given(st.text())
def test_any_text_is_read_back_by_whoever_has_the_key(text: str) -> None:
    sealed = SEALER.seal(text)
    assert sealed.isascii()
    assert Sealer(b"a key of the service").unseal(sealed) == text


def test_a_seal_shows_nothing_of_its_text() -> None:
    assert "secret" not in SEALER.seal("secret" * 100)
    assert SEALER.seal("secret") != SEALER.seal("secret")


def test_another_key_does_not_read_it() -> None:
    with pytest.raises(UnsealError, match="another key"):
        Sealer(b"another key").unseal(SEALER.seal("thought"))


@examples(200)
@given(st.integers(min_value=0), st.characters())
def test_a_changed_seal_is_refused(place: int, character: str) -> None:
    sealed = SEALER.seal("a thought of some length")
    place %= len(sealed)
    changed = sealed[:place] + character + sealed[place + 1 :]
    if changed != sealed:
        with pytest.raises(UnsealError):
            SEALER.unseal(changed)


@examples(200)
@given(st.text() | st.text().map(PREFIX.__add__) | st.binary().map(lambda raw: PREFIX + raw.hex()))
def test_what_somebody_else_has_made_is_refused(foreign: str) -> None:
    with pytest.raises(UnsealError):
        SEALER.unseal(foreign)


def test_the_length_is_bounded() -> None:
    with pytest.raises(UnsealError, match="too long"):
        SEALER.unseal(PREFIX + "A" * MAX_SEALED_CHARS)


def test_an_empty_key_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="empty"):
        Sealer(b"")
