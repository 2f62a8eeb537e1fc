from __future__ import annotations

import gc
import time
import weakref

from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.answer import AnswerReader
from serve_app.answers.offer import Offer, PlainText
from serve_app.answers.stop_strings import Match, StopSearch, StopStrings
from serve_app.answers.text import TextReader
from serve_app.harmony.tokens import Vocabulary
from tests.examples import examples


def search(stop: list[str], parts: list[str]) -> tuple[list[str], Match | None]:
    """What is returned for each part, and at the end; and what was found."""
    found = StopSearch(StopStrings(stop))
    released = []
    for part in parts:
        released.append(found.feed(part))
        if found.is_decided:
            return released, found.match
    return [*released, found.end()], found.match


def test_the_text_before_it_is_returned() -> None:
    assert search(["STOP"], ["One ST", "OP two"]) == (["One ", ""], Match("STOP", 4, 8))


def test_what_may_be_its_beginning_is_held_back() -> None:
    assert search(["STOP"], ["One S", "T", "AY"])[0] == ["One ", "", "STAY", ""]
    assert search(["aab"], ["aaa", "a", "c"])[0] == ["a", "a", "aac", ""]
    assert search(["STOP"], ["One ST"]) == (["One ", "ST"], None)


def test_the_one_that_begins_first_counts() -> None:
    # "bc" is complete while "abcd" may still come about.
    assert search(["abcd", "bc"], ["xabc", "d"]) == (["x", ""], Match("abcd", 1, 5))
    assert search(["abcd", "bc"], ["xabc", "e"]) == (["x", "a"], Match("bc", 2, 4))
    assert search(["abcd", "bc"], ["xabc"]) == (["x", "a"], Match("bc", 2, 4))


def test_of_two_that_begin_at_one_place_the_one_that_is_complete_first() -> None:
    assert search(["abc", "ab"], ["xabc"]) == (["x"], Match("ab", 1, 3))


def test_an_empty_string_stops_nothing() -> None:
    assert not StopStrings(["", ""])
    assert StopStrings(["", "a"])


@examples(500, derandomize=True)
@given(
    st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.text("abcd", max_size=6), max_size=8),
)
def test_as_a_plain_search_in_the_whole_text(stop: list[str], parts: list[str]) -> None:
    text = "".join(parts)
    starts = [(text.find(string), len(string)) for string in stop if string in text]
    released, match = search(stop, parts)
    if not starts:
        assert match is None
        assert "".join(released) == text
        return
    start, length = min(starts)
    assert match == Match(text[start : start + length], start, start + length)
    assert "".join(released) == text[:start]


def test_the_time_does_not_grow_with_what_is_held_back() -> None:
    num_chars = 50_000
    strings = StopStrings(["a" * num_chars + "b", "ab" * 10_000])
    started = time.process_time()
    found = StopSearch(strings)
    for _ in range(num_chars):
        found.feed("a")
    assert found.end() == "a" * num_chars
    # Some 30 ms; looking again at what is held back each time would take a minute.
    assert time.process_time() - started < 2


def test_answers_with_the_same_strings_share_what_is_made_of_them() -> None:
    strings = ("a", "ab")
    one = StopStrings.of(strings)
    assert StopStrings.of(("a", "ab")) is one
    assert StopStrings.of(("ab", "a")) is not one
    state = weakref.ref(one)
    del one
    gc.collect()
    assert state() is None


def test_readers_of_one_request_share_it() -> None:
    vocabulary = Vocabulary.load()
    stop = ("some stop", "another")
    answers = [AnswerReader(Offer(stop=stop), vocabulary)._stop_strings for _ in range(2)]
    texts = [TextReader(PlainText(stop=stop), vocabulary)._search for _ in range(2)]
    assert answers[0] is answers[1]
    assert all(search is not None and search._strings is answers[0] for search in texts)
