"""Answers as tests write and see them: a text with special tokens, and items with all of their text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import (
    AnswerEnded,
    CallBegan,
    Delta,
    ItemEnded,
    ItemEvent,
    ReasoningBegan,
    TextBegan,
    TokenLogprob,
)
from serve_app.answers.offer import Offer
from serve_app.harmony.tokens import FIRST_SPECIAL, Vocabulary

_SPECIAL = re.compile(r"(<\|[a-z_0-9]+\|>)")


def special_tokens() -> dict[str, int]:
    names = Vocabulary.load().token_bytes[FIRST_SPECIAL:]
    return {name.decode(): token for token, name in enumerate(names, FIRST_SPECIAL)}


def tokens_of(answer: str) -> list[int]:
    """The tokens of an answer in which special ones are spelled by name."""
    special, vocabulary = special_tokens(), Vocabulary.load()
    tokens: list[int] = []
    for part in _SPECIAL.split(answer):
        tokens += [special[part]] if part in special else vocabulary.encode(part)
    return tokens


@dataclass
class Item:
    kind: Literal["reasoning", "commentary", "final", "call"]
    text: str = ""
    name: str = ""
    is_complete: bool | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} {self.text!r} {self.is_complete}>"


@dataclass
class Answer:
    items: list[Item]
    end: AnswerEnded

    @property
    def short(self) -> list[tuple[str, str]]:
        """Kind (of a call its name) and text of each item."""
        return [(item.name or item.kind, item.text) for item in self.items]

    @property
    def content(self) -> str:
        return "".join(item.text for item in self.items if item.kind in ("commentary", "final"))


def fold(events: Iterable[ItemEvent]) -> Answer:
    """The answer that events make; fails where they do not follow each other as they should."""
    items: list[Item] = []
    end: AnswerEnded | None = None
    for event in events:
        assert end is None, f"{event} behind the end"
        is_open = bool(items) and items[-1].is_complete is None
        match event:
            case AnswerEnded():
                assert not is_open
                end = event
            case ItemEnded(is_complete=is_complete):
                assert is_open
                items[-1].is_complete = is_complete
            case Delta(text=text, logprobs=logprobs):
                assert is_open
                assert text or logprobs
                items[-1].text += text
                items[-1].logprobs += logprobs
            case ReasoningBegan():
                assert not is_open
                items.append(Item("reasoning"))
            case TextBegan(channel=channel):
                assert not is_open
                items.append(Item(channel))
            case CallBegan(name=name):
                assert not is_open
                items.append(Item("call", name=name))
    assert end is not None
    return Answer(items, end)


def read(
    answer: str | Sequence[int],
    offer: Offer | None = None,
    reason: Literal["stop", "length"] = "stop",
    batches: Sequence[int] | int = 1,
    logprobs: Sequence[TokenLogprob] | None = None,
    stop_token: int | None = None,
) -> Answer:
    """The answer that tokens make, fed in batches of these sizes (the last again and again)."""
    return read_by(
        AnswerReader(offer or Offer(), Vocabulary.load()), answer, reason, batches, logprobs, stop_token
    )


def read_by(
    reader: AnswerReader,
    answer: str | Sequence[int],
    reason: Literal["stop", "length"] = "stop",
    batches: Sequence[int] | int = 1,
    logprobs: Sequence[TokenLogprob] | None = None,
    stop_token: int | None = None,
) -> Answer:
    tokens = tokens_of(answer) if isinstance(answer, str) else answer
    sizes = [batches] if isinstance(batches, int) else list(batches)
    events: list[ItemEvent] = []
    index = 0
    while index < len(tokens) and not reader.is_over:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        end = index + size
        events += reader.feed(tokens[index:end], None if logprobs is None else logprobs[index:end])
        index = end
    events += reader.end("stop" if reader.is_over else reason, stop_token)
    return fold(events)
