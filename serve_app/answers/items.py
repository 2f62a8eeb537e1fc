"""The events of an answer: items begin, grow and end, one after the other; then the answer ends.

An item is what a client sees as one thing: a stretch of reasoning, a text, a call. Each harmony message that
is shown is one. Encoders of the APIs turn these events into theirs; the body that is not streamed is the fold
of the same events.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec

from serve_app.harmony.conversation import TextChannel

# Where an API has one string for several items of a kind (Chat Completions), this stands between two that are
# not empty.
SEPARATOR = "\n"


class Finish(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """The model has ended it, or a stop string has."""
    CALLS = "calls"
    """The model has ended it, and there is at least one complete call."""
    LENGTH = "length"
    """It was cut: by the token limit, or in the middle of a call."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the answer, its log probability and those of the likeliest tokens at its place.

    `alternatives` are in order of probability, without the sampled token's duplicate removed: as the engine
    gives them, at most as many as were asked for.
    """

    token_id: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()
    rank: int | None = None
    """Its place among all tokens by probability, from 1."""


@dataclass(frozen=True, slots=True)
class ReasoningBegan:
    """A message on the channel `analysis` begins."""


@dataclass(frozen=True, slots=True)
class TextBegan:
    """A text begins: a preamble (`commentary`) or an answer (`final`)."""

    channel: TextChannel


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call begins. `name` is that of an offered function, or what the model said if it is none."""

    name: str


class Delta(msgspec.Struct, frozen=True, gc=False):
    """More text of the item that is open; not empty, except that `logprobs` may come without text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of content only, and only if the engine was asked for them."""
    # A struct and no dataclass: there are thousands a second, and it is made in a tenth of the time.


@dataclass(frozen=True, slots=True)
class ItemEnded:
    """The item that is open ends."""

    is_complete: bool
    """False when it was cut by the token limit."""


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The last event. Exactly one, and nothing is open."""

    finish: Finish
    completion_tokens: int
    reasoning_tokens: int
    stop_string: str | None = None
    """The stop string that ended it."""
    stop_token: int | None = None
    """The token of the request's `stop_token_ids` that ended it."""


ItemEvent = ReasoningBegan | TextBegan | CallBegan | Delta | ItemEnded | AnswerEnded
