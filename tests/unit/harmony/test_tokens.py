"""The vocabulary: token bytes, and text to ordinary tokens in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.harmony import tokens
from serve_app.harmony.tokens import Vocabulary, min_tokens
from tests.examples import examples

NAMES = {
    tokens.ENDOFTEXT: b"<|endoftext|>",
    tokens.RETURN: b"<|return|>",
    tokens.CONSTRAIN: b"<|constrain|>",
    tokens.CHANNEL: b"<|channel|>",
    tokens.START: b"<|start|>",
    tokens.END: b"<|end|>",
    tokens.MESSAGE: b"<|message|>",
    tokens.CALL: b"<|call|>",
}
FRAGMENTS = [
    "a",
    "the",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "'",
    "12345",
    "3",
    ". ",
    "_",
    "-",
    "/",
    "é",
    "e\u0301",
]
FRAGMENTS += ["中", "\uff0c", "(", "\U0001f600", "\x1c", "\u2028", "²", "Ab", "<|start|>", "ไทย", "\u00a0"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.load()


def test_loading_again_is_free(vocabulary: Vocabulary) -> None:
    assert Vocabulary.load() is vocabulary


def test_bytes_of_tokens(vocabulary: Vocabulary) -> None:
    assert {token_id: vocabulary.bytes_of(token_id) for token_id in NAMES} == NAMES
    assert vocabulary.bytes_of(tokens.FIRST_SPECIAL) == b"<|startoftext|>"
    assert vocabulary.bytes_of(0) == b"!"
    assert vocabulary.bytes_of(-1) == vocabulary.bytes_of(len(vocabulary.token_bytes)) == b""
    assert max(map(len, vocabulary.token_bytes)) == tokens.MAX_TOKEN_BYTES


def test_all_bytes_agree_with_the_library(vocabulary: Vocabulary) -> None:
    for token_id in range(0, len(vocabulary.token_bytes), 97):
        text = vocabulary.encoding.decode([token_id])
        assert vocabulary.bytes_of(token_id).decode(errors="replace") == text


@examples(200)
@given(st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=400).map("".join))
def test_text_comes_back(text: str) -> None:
    vocabulary = Vocabulary.load()
    ids = vocabulary.encode(text)
    assert all(token_id < tokens.FIRST_SPECIAL for token_id in ids)
    assert b"".join(map(vocabulary.bytes_of, ids)).decode() == text
    assert len(ids) >= min_tokens(len(text.encode()))


@examples(30)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=20, max_size=60))
def test_slices_do_not_change_tokens(parts: list[str]) -> None:
    vocabulary = Vocabulary.load()
    # Each stretch is followed by a place to part, as in any text of a language.
    text = "".join(part + separator for part in parts for separator in ("x, ", "y\n", "z(")) * 200
    assert vocabulary.encode(text) == vocabulary.encoding.encode(text, disallowed_special=())


@pytest.mark.parametrize(
    "unit", ["a", " ", "\n", "-", "1", "中", "é", "e\u0301", "<|start|>", "a'", "\U0001f600"]
)
def test_strange_text_costs_no_more_than_other(unit: str, vocabulary: Vocabulary) -> None:
    text = unit * (2**18 // len(unit.encode()))
    began = time.process_time()
    ids = vocabulary.encode(text)
    # 0.1 s on a slow core. The library alone takes minutes for some of these and panics on others.
    assert time.process_time() - began < 5
    assert b"".join(map(vocabulary.bytes_of, ids)).decode() == text


def test_half_a_surrogate_pair(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("a\ud800b") == vocabulary.encode("a\ufffdb")
    assert b"".join(map(vocabulary.bytes_of, vocabulary.encode("\ud800" * 3000))).decode() == "\ufffd" * 3000


def test_a_limit_ends_encoding_early(vocabulary: Vocabulary) -> None:
    text = "word " * 100_000
    whole = vocabulary.encode(text)
    cut = vocabulary.encode(text, max_tokens=1000)
    assert 1000 < len(cut) < 10_000
    assert cut == whole[: len(cut)]
    assert vocabulary.encode(text, max_tokens=len(whole)) == whole


def test_least_number_of_tokens() -> None:
    assert [min_tokens(num_bytes) for num_bytes in (0, 1, 128, 129)] == [0, 1, 1, 2]


@given(
    st.lists(st.sampled_from([*FRAGMENTS, "<|call|>", "<|no_token|>", "<|", "|>", "<|<|end|>"]), max_size=20)
)
@examples(100)
def test_a_prompt_has_special_tokens_where_it_has_their_names(parts: list[str]) -> None:
    vocabulary, text = Vocabulary.load(), "".join(parts)
    assert vocabulary.encode_prompt(text) == vocabulary.encoding.encode(text, allowed_special="all")


def test_a_token_that_the_model_does_not_know_is_text(vocabulary: Vocabulary) -> None:
    assert len(vocabulary.token_bytes) == tokens.NUM_TOKENS
    assert vocabulary.encode_prompt("<|reserved_201087|>") == [201087]
    assert max(vocabulary.encode_prompt("<|reserved_201088|>")) < tokens.FIRST_SPECIAL


def test_a_prompt_that_is_too_long_ends_early(vocabulary: Vocabulary) -> None:
    assert 100 < len(vocabulary.encode_prompt("<|start|>a" * 100_000, 100)) < 1000
    assert vocabulary.encode_prompt("<|start|>a" * 50, 100) == vocabulary.encode_prompt("<|start|>a" * 50)
