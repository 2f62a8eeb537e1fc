from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.items import AnswerEnded, Delta, Finish, ItemEvent, TokenLogprob
from serve_app.answers.offer import PlainText
from serve_app.answers.text import TextReader
from serve_app.harmony.tokens import CALL, CHANNEL, ENDOFTEXT, MESSAGE, RETURN, START, Vocabulary
from tests.examples import examples

VOCABULARY = Vocabulary.load()
SOME = [*VOCABULARY.encode("one, two, STOP aab\n\n7 é👋🏽🦒"), START, CHANNEL, MESSAGE, RETURN]
STRINGS = ["aab", "ab", "STOP", "P a", "\n", "\n\n7", "🦒", "<|start|>", "o,"]
# The last two are a reserved special token and none at all.
TOKENS = st.lists(st.sampled_from([*SOME, ENDOFTEXT, 200018, 250000]), max_size=40)


def read(
    plain: PlainText,
    batches: Iterable[Sequence[int]],
    reason: Literal["stop", "length"] = "length",
    *,
    with_logprobs: bool = True,
    stop_token: int | None = None,
) -> tuple[str, list[int], AnswerEnded]:
    """The text, the tokens whose log probabilities came, and the end."""
    reader = TextReader(plain, VOCABULARY)
    events: list[ItemEvent] = []
    for batch in batches:
        logprobs = [TokenLogprob(token, -1.0) for token in batch] if with_logprobs else None
        events += reader.feed(batch, logprobs)
        if reader.is_over:
            reason = "stop"
            break
    events += reader.end(reason, stop_token)
    *deltas, ended = events
    assert isinstance(ended, AnswerEnded)
    text, tokens = "", []
    for delta in deltas:
        assert isinstance(delta, Delta)
        assert delta.text or delta.logprobs
        text += delta.text
        tokens += [logprob.token_id for logprob in delta.logprobs]
    assert not reader.repairs
    return text, tokens, ended


def encode(text: str) -> list[int]:
    return VOCABULARY.encode(text)


def cut(tokens: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    batches, start = [], 0
    for size in sizes:
        batches.append(tokens[start : start + size])
        start += size
    return [*batches, tokens[start:]]


def test_text_comes_as_it_is() -> None:
    tokens = encode("Hello there, friend.")
    reader = TextReader(PlainText(), VOCABULARY)
    assert reader.feed(tokens[:2]) == [Delta("Hello there")]
    assert reader.feed(tokens[2:]) == [Delta(", friend.")]
    assert reader.feed([]) == []
    assert reader.end("length") == [AnswerEnded(Finish.LENGTH, len(tokens), 0)]


def test_a_character_comes_with_its_last_token_and_so_do_the_logprobs() -> None:
    tokens = encode("🦒")
    assert len(tokens) > 1
    reader = TextReader(PlainText(), VOCABULARY)
    logprobs = [TokenLogprob(token, -0.5) for token in tokens]
    assert reader.feed(tokens[:-1], logprobs[:-1]) == []
    assert reader.feed(tokens[-1:], logprobs[-1:]) == [Delta("🦒", tuple(logprobs))]
    assert reader.end("stop") == [AnswerEnded(Finish.STOP, len(tokens), 0)]


def test_an_unfinished_character_is_one_replacement() -> None:
    [first, *_] = encode("🦒")
    assert read(PlainText(), [[first]]) == ("\ufffd", [first], AnswerEnded(Finish.LENGTH, 1, 0))


SPECIAL = [CHANNEL, *encode("analysis"), MESSAGE, *encode("Hm"), RETURN]


def test_special_tokens_are_left_out() -> None:
    text, tokens, ended = read(PlainText(), [SPECIAL], "stop")
    assert (text, tokens, ended.completion_tokens) == ("analysisHm", SPECIAL, len(SPECIAL))


@pytest.mark.parametrize("batches", [[SPECIAL], [[token] for token in SPECIAL]])
def test_special_tokens_by_name_but_for_the_one_that_ends_the_answer(batches: list[list[int]]) -> None:
    plain = PlainText(skips_special_tokens=False)
    text, tokens, ended = read(plain, batches, "stop")
    assert (text, tokens) == ("<|channel|>analysis<|message|>Hm", SPECIAL)
    assert ended == AnswerEnded(Finish.STOP, len(SPECIAL), 0)
    # What has ended nothing is text.
    assert read(plain, batches, "length")[0] == "<|channel|>analysis<|message|>Hm<|return|>"
    assert read(plain, [*batches, [CALL]], "stop")[0] == "<|channel|>analysis<|message|>Hm<|return|>"
    kept = PlainText(skips_special_tokens=False, keeps_stop_string=True)
    assert read(kept, batches, "stop")[0] == "<|channel|>analysis<|message|>Hm<|return|>"


def test_a_stop_token_is_no_part_of_the_text() -> None:
    tokens = encode("1, 2, 3")
    [comma] = encode(",")
    plain = PlainText(stop_tokens=frozenset({comma}))
    text, seen, ended = read(plain, [tokens[:2]], "stop", stop_token=comma)
    assert (text, seen) == ("1", tokens[:2])
    assert ended == AnswerEnded(Finish.STOP, 2, 0, None, comma)
    # With `min_tokens` the engine goes on.
    assert read(plain, [tokens[:2], tokens[2:]])[0] == "1, 2, 3"


def test_a_stop_string_ends_the_text_and_the_count() -> None:
    tokens = encode("One, two, three, STOP four, five")
    num = len(encode("One, two, three, STOP"))
    for size in (1, 2, 3, len(tokens)):
        batches = cut(tokens, [size] * (len(tokens) // size))
        text, seen, ended = read(PlainText(stop=("STOP", "five")), batches)
        assert text == "One, two, three, "
        assert seen == tokens[:num]
        assert ended == AnswerEnded(Finish.STOP, num, 0, "STOP")
        kept, _, _ = read(PlainText(stop=("STOP",), keeps_stop_string=True), batches)
        assert kept == "One, two, three, STOP"


def test_a_stop_string_at_the_very_end() -> None:
    tokens = encode("a b")
    assert read(PlainText(stop=("b", "b c d")), [tokens])[0::2] == (
        "a ",
        AnswerEnded(Finish.STOP, 2, 0, "b"),
    )
    # One that is not complete is text.
    assert read(PlainText(stop=("b c d",)), [tokens])[0::2] == ("a b", AnswerEnded(Finish.LENGTH, 2, 0))


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    tokens = encode("a b a b a b")
    plain = PlainText(stop=("b",), min_tokens=3)
    for batches in ([tokens], [[token] for token in tokens]):
        assert read(plain, batches)[0::2] == ("a b a ", AnswerEnded(Finish.STOP, 4, 0, "b"))


def test_what_follows_the_end_is_ignored() -> None:
    reader = TextReader(PlainText(stop=("two",)), VOCABULARY)
    reader.feed(encode("one two three"))
    assert reader.is_over
    assert reader.feed(encode(" four")) == []
    assert reader.end("stop") == [AnswerEnded(Finish.STOP, 2, 0, "two")]


PLAINS = st.builds(
    PlainText,
    stop=st.lists(st.sampled_from(STRINGS), max_size=3).map(tuple),
    keeps_stop_string=st.booleans(),
    skips_special_tokens=st.booleans(),
    stop_tokens=st.sets(st.sampled_from(SOME), max_size=2).map(frozenset),
    min_tokens=st.integers(0, 4),
)


@examples(300)
@given(PLAINS, TOKENS, st.lists(st.integers(0, 5), max_size=40), st.sampled_from(["stop", "length"]))
def test_the_answer_does_not_depend_on_batches(
    plain: PlainText, tokens: list[int], sizes: list[int], reason: Literal["stop", "length"]
) -> None:
    whole = read(plain, [tokens], reason)
    in_batches = read(plain, cut(tokens, sizes), reason)
    assert in_batches == whole
    text, seen, ended = whole
    assert seen == tokens[: ended.completion_tokens]
    assert read(plain, cut(tokens, sizes), reason, with_logprobs=False)[0::2] == (text, ended)
    if ended.stop_string is None:
        assert ended.completion_tokens == len(tokens)
        assert ended.finish.value == reason
    else:
        assert ended.stop_string in plain.stop
        assert text.endswith(ended.stop_string) or not plain.keeps_stop_string
    if plain.skips_special_tokens:
        assert "<|" not in text
    if not plain.keeps_stop_string and not plain.min_tokens:
        assert not any(string in text for string in plain.stop)
