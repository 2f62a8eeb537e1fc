from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.answers.items import CallBegan, Delta, Finish, ItemEnded, ItemEvent, ReasoningBegan, TextBegan
from serve_app.answers.usage import Usage
from serve_app.api.chat.answer import AnswerOptions, ChatEncoder
from serve_app.api.event_lines import on_one_line
from serve_app.api.exchange import Encoder
from serve_app.errors import TokensLostError
from tests.examples import examples
from tests.unit.api.chat_bodies import START
from tests.unit.api.response_answers import ended, new_encoder

# Python's `splitlines` ends lines at all of these, some of which JSON leaves as they are.
LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
TEXTS = st.text(st.sampled_from(f"{LINE_ENDS}aé\u2030\U0001f600") | st.characters(codec="utf-8"))
ENCODERS: dict[str, Callable[[], Encoder[Any]]] = {
    "chat": partial(ChatEncoder, AnswerOptions(), START),
    "responses": new_encoder,
}


def strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


@given(TEXTS)
def test_json_is_one_line_and_says_the_same(text: str) -> None:
    line = on_one_line(msgspec.json.encode(text))
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == text


def test_ascii_is_not_copied() -> None:
    assert on_one_line(line := b'"x"') is line


@pytest.mark.parametrize("api", ENCODERS)
@examples(50)
@given(text=TEXTS.filter(bool))
def test_each_event_of_a_stream_is_one_line(api: str, text: str) -> None:
    encoder = ENCODERS[api]()
    items: list[ItemEvent] = [
        *(ReasoningBegan(), Delta(text), ItemEnded(True)),
        *(TextBegan("final"), Delta(text), ItemEnded(True)),
        *(CallBegan("weather"), Delta(text), ItemEnded(True), ended(Finish.CALLS)),
    ]
    events = [*encoder.begin(), *encoder.feed(0, items, []), *encoder.end(Usage(3, 5))]
    sent = [*map(encoder.to_bytes, events), encoder.error_bytes(TokensLostError(text))]
    lines = [line for chunk in sent for line in chunk.decode().splitlines() if line]
    assert all(line.startswith(("event: ", "data: ")) for line in lines)
    said = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert text in set(strings(said))
