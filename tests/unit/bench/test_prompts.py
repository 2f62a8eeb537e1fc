"""Prompts have the length that they claim, and nothing in common."""

import base64
from itertools import pairwise

import pytest

from serve_app.bench.load import Load
from serve_app.bench.prompts import WORDS, body, prompt
from serve_app.harmony import vocabulary_file

# A block of vLLM's prefix cache.
BLOCK_TOKENS = 16


@pytest.mark.slow
def test_each_word_is_one_token() -> None:
    """o200k splits text before a space and a word, and what is in the vocabulary is one token."""
    tokens = {base64.b64decode(line.split()[0]) for line in vocabulary_file.packaged().splitlines()}
    assert len(WORDS) == len(set(WORDS)) == 256
    assert [word for word in WORDS if f" {word}".encode() not in tokens] == []
    assert all(word.isalpha() and word.islower() for word in WORDS)


def test_prompts_have_their_length_and_share_no_prefix() -> None:
    prompts = sorted(prompt(1, number, 64) for number in range(500))
    assert {len(text.split()) for text in prompts} == {64}
    common = [
        sum(one == other for one, other in zip(a.split(), b.split(), strict=True))
        for a, b in pairwise(prompts)
    ]
    starts = {tuple(text.split()[:BLOCK_TOKENS]) for text in prompts}
    assert len(starts) == len(prompts)
    assert max(common) < BLOCK_TOKENS


def test_seed_and_number_decide() -> None:
    assert prompt(1, 2, 9) == prompt(1, 2, 9)
    assert len({prompt(1, 2, 9), prompt(1, 3, 9), prompt(2, 2, 9), prompt(12, 2, 9)}) == 4


def test_a_body_of_completions() -> None:
    load = Load(
        url="x", concurrency=1, api="completions", input_tokens=2, output_tokens=3, exact_output=False
    )
    made = body(load, "m", 1, 0)
    assert made.pop("prompt") == prompt(1, 0, 2)
    assert made == {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 3}


def test_own_prompts_and_additions_come_last() -> None:
    bodies = ({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5}, {"temperature": 0})
    load = Load(url="x", concurrency=1, bodies=bodies, extra_body={"temperature": 1}, output_tokens=3)
    first, second, third = (body(load, "m", 1, number) for number in range(3))
    assert (first["messages"][0]["content"], first["max_tokens"], first["temperature"]) == ("a", 5, 1)
    assert (len(second["messages"][0]["content"].split()), second["max_tokens"]) == (512, 3)
    assert third == first
