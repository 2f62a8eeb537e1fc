"""An exchange: what an API makes of a request's body, and what encodes its answer.

The way of all three APIs: `Exchange` from the body; its conversation is rendered and generated; the events of
the answer go to the encoder, whose events are the stream. The body that is not streamed is the fold of the
same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from serve_app.answers.items import ItemEvent
from serve_app.answers.offer import Offer, PlainText
from serve_app.answers.usage import Usage
from serve_app.api.sampling import Sampling
from serve_app.errors import ServiceError
from serve_app.harmony.conversation import Conversation

Event = TypeVar("Event")


@dataclass(frozen=True, slots=True)
class Start:
    """What is known when the answer begins."""

    model: str
    """The name that answers carry."""
    created: int
    """Seconds since 1970."""
    prompt_token_ids: Sequence[int]
    """Of the first prompt."""
    detokenize: Callable[[int], bytes]
    """A token's bytes; those of a special token are its name's."""


class Encoder(Protocol[Event]):
    """Makes an API's events of those of an answer. Made for one answer; nothing in it waits.

    The calls come in this order: `begin`, `feed` any number of times, `end`.
    """

    def begin(self) -> Iterable[Event]:
        """Returns the events that open the stream, before there is a token."""

    def feed(self, choice: int, events: Sequence[ItemEvent], token_ids: Sequence[int]) -> Iterable[Event]:
        """Returns the events for what has come of a choice (0 to n - 1), its `AnswerEnded` included.

        `token_ids` are the engine's tokens that led to `events`, for clients that want to see them.
        """

    def end(self, usage: Usage) -> Iterable[Event]:
        """Returns the events that close the stream, when all choices have ended; `usage` is that of all."""

    def to_bytes(self, event: Event) -> bytes:
        """Returns an event as it is streamed, with the empty line behind it."""

    def last_bytes(self) -> bytes:
        """Returns what stands behind the last event (`data: [DONE]` where the API has it), or nothing."""

    def error_bytes(self, error: ServiceError) -> bytes:
        """Returns what ends a stream that has begun and fails: an error as the API streams it, whole."""

    def fold(self, events: Iterable[Event]) -> dict[str, Any]:
        """Returns the body that is not streamed, of all events of an answer."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the whole answer must look like, as an xgrammar structural tag (JSON)."""

    structural_tag: str
    param: str
    """The field of the request that it comes from, for error messages."""


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Event]):
    """What an API makes of a request's body."""

    model: str | None
    """The name that the client gave; None: the service's only one."""
    conversation: Conversation | None
    """What is rendered; None where the client sends prompts (Completions)."""
    offer: Offer | PlainText
    """How the tokens are read: as harmony, or as text."""
    sampling: Sampling
    new_encoder: Callable[[Start], Encoder[Event]]
    prompts: tuple[Sequence[int], ...] = ()
    """Token ids, where there is no conversation."""
    is_streamed: bool = False
    num_choices: int = 1
    """Answers to each prompt; the choices of all prompts are numbered in order."""
    grammar: Grammar | None = None
    request_id: str | None = None
    """What the client calls this request, if it does."""
    warnings: tuple[str, ...] = field(default=())
    """What was left out of the request, each in a few words of ASCII; they go into a response header."""
