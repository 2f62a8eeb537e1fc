"""The reader's own events; what becomes of them is in tests/unit/answers."""

from __future__ import annotations

from collections import Counter

import pytest

from serve_app.harmony.characters import Characters
from serve_app.harmony.header import Header
from serve_app.harmony.raw_part import Text
from serve_app.harmony.reader import MessageEnd, Reader
from serve_app.harmony.recipients import Names
from serve_app.harmony.slips import Slip
from serve_app.harmony.tokens import Vocabulary
from tests.unit.answers.folding import tokens_of


def new_reader(*, is_continued: bool = False) -> tuple[Reader, Counter[str]]:
    slips: Counter[str] = Counter()
    return Reader(Vocabulary.load(), Names(), slips, is_continued=is_continued), slips


def test_the_events_of_a_message() -> None:
    reader, slips = new_reader()
    assert reader.feed(tokens_of("<|channel|>final")) == []
    assert reader.feed(tokens_of("<|message|>Hi")) == [Header("final"), Text("Hi", 3, 1)]
    assert reader.feed(tokens_of(" there")) == [Text(" there", 4, 1)]
    assert reader.feed(tokens_of("<|end|>")) == [MessageEnd(is_closed=True)]
    assert reader.state.value == "between"
    assert reader.feed(tokens_of("<|return|>more")) == []
    assert reader.state.value == "over"
    assert reader.end(is_cut=False) == []
    assert reader.num_tokens == 8
    assert slips == {Slip.STRAY_TOKEN: 1, Slip.LATE_TOKENS: 1}


def test_only_text_is_read_as_text() -> None:
    reader, _ = new_reader(is_continued=True)
    assert reader.read_text(tokens_of("Hi there")) == "Hi there"
    assert reader.read_text(tokens_of("Hi<|end|>")) is None
    assert reader.read_text([-1]) is None
    assert reader.num_tokens == 2
    assert reader.feed(tokens_of("<|end|>")) == [MessageEnd(is_closed=True)]
    assert reader.read_text(tokens_of("Hi")) is None


def test_a_text_that_the_engine_cuts() -> None:
    reader, slips = new_reader(is_continued=True)
    half = Vocabulary.load().token_bytes.index(b"\xc3")
    assert reader.feed([half]) == [Text("", 0, 1)]
    assert reader.end(is_cut=True) == [Text("\ufffd", 0, 0), MessageEnd(is_closed=False)]
    assert slips == {Slip.BAD_UTF8: 1}


def test_text_in_a_header_comes_token_by_token() -> None:
    reader, slips = new_reader()
    tokens = tokens_of(" Sorry, no.<|channel|>final Well<|return|>")
    header, *texts, end = reader.feed(tokens)
    assert (header, end) == (Header("final"), MessageEnd(is_closed=True))
    assert all(isinstance(text, Text) for text in texts)
    assert [text[:2] for text in texts if isinstance(text, Text)] == [
        ("Sorry", 0), (",", 1), (" no", 2), (".", 3), (" ", 3), ("Well", 6),
    ]  # fmt: skip
    assert slips == {Slip.NO_MESSAGE: 1, Slip.TEXT_IN_HEADER: 1}


def test_how_many_tokens_complete_so_many_characters() -> None:
    reader, _ = new_reader()
    face = [Vocabulary.load().token_bytes.index(bytes([byte])) for byte in "🙂".encode()]
    assert reader.tokens_for(1, face, b"") == 4
    assert reader.tokens_for(1, face[2:], "🙂".encode()[:2]) == 2
    assert reader.tokens_for(5, tokens_of("abc"), b"") == len(tokens_of("abc"))


def test_characters_do_not_depend_on_how_bytes_are_cut() -> None:
    data = "aé🙂\ufffd".encode() + b"\xf0\x9f\xff\xe2\x82" + "€".encode() + b"\xf0\x9f"
    whole = Characters()
    text = whole.decode(data)
    assert text + whole.end() == data.decode(errors="replace")
    for size in (1, 2, 3):
        cut = Characters()
        parts = [cut.decode(data[start : start + size]) for start in range(0, len(data), size)]
        assert "".join(parts) + cut.end() == text + "\ufffd"
        # The model's own U+FFFD is none that stands for something else.
        assert cut.num_bad == whole.num_bad == text.count("\ufffd")
        assert cut.end() == ""


@pytest.mark.parametrize("marker", ["<|channel|>", "<|constrain|>", "<|channel|>final", "<|constrain|>json"])
def test_a_header_has_a_number_of_parts(marker: str) -> None:
    """Behind more markers than any header has, a message is read, and the step that begins it is short."""
    reader, slips = new_reader()
    reader.feed(tokens_of(marker) * 1000)
    assert len(reader._parts) == 64
    reader.feed(tokens_of("<|channel|>final"))
    assert reader.feed(tokens_of("<|message|>Hi"))[-1] == Text("Hi", reader.num_tokens - 1, 1)
    assert slips[Slip.STRAY_TOKEN] > 900


def test_a_header_of_many_parts_is_read_as_to_the_last_word() -> None:
    reader, _ = new_reader()
    reader.feed(tokens_of("<|channel|>analysis") * 100)
    [header, _] = reader.feed(tokens_of("<|channel|> final<|message|>Hi"))
    assert header == Header("final")
