"""The answer: what of a model's messages is reasoning, text or a call, given what the request offered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from serve_app.answers.content import Content, Released
from serve_app.answers.items import (
    AnswerEnded,
    CallBegan,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    TextBegan,
    TokenLogprob,
)
from serve_app.answers.message_items import REASONING, Item, MessageItems
from serve_app.answers.offer import Offer
from serve_app.answers.stop_strings import StopStrings
from serve_app.harmony.header import Header
from serve_app.harmony.raw_part import Text
from serve_app.harmony.reader import MessageEnd, MessageEvent, Reader
from serve_app.harmony.recipients import Names
from serve_app.harmony.tokens import Vocabulary


class AnswerReader:
    """Reads one answer: token ids in, the events of its items out, whatever the tokens are.

    Its result does not depend on how the tokens are cut into calls of `feed`.
    """

    __slots__ = (
        "_by_token",
        "_content",
        "_has_begun",
        "_has_cut_call",
        "_is_searched",
        "_item",
        "_items",
        "_logprobs",
        "_num_complete_calls",
        "_offer",
        "_reader",
        "_reasoning_tokens",
        "_released",
        "_released_logprobs",
        "_stop",
        "_stop_strings",
        "repairs",
    )

    def __init__(self, offer: Offer, vocabulary: Vocabulary) -> None:
        self._offer = offer
        self._stop_strings = StopStrings.of(offer.stop)
        self._is_searched = bool(self._stop_strings)
        self.repairs: Counter[str] = Counter()
        """What had to be repaired so far, by kind (`repairs.KINDS`)."""
        self._items = MessageItems(offer, self.repairs)
        names = Names(offer.tools, offer.forbidden_tools)
        self._reader = Reader(vocabulary, names, self.repairs, is_continued=offer.is_continued)
        # The item that the open message is; None: there is none, or it is not shown. An item begins with its
        # first text, a call at once.
        self._item: Item | None = None
        self._has_begun = False
        self._content: Content | None = None
        # What is shown of the item and not yet an event.
        self._released: list[str] = []
        self._released_logprobs: list[TokenLogprob] = []
        # By position in the answer, of tokens that may turn out as content.
        self._logprobs: dict[int, TokenLogprob] = {}
        self._num_complete_calls = self._reasoning_tokens = 0
        self._has_cut_call = False
        # The stop string that has ended the answer, and the number of tokens up to it.
        self._stop: tuple[str, int] | None = None
        if offer.is_continued:
            self._begin(Header("final"), [])

    @property
    def is_over(self) -> bool:
        """Whether a stop string has ended the answer: the engine may stop, and nothing more is read."""
        return self._stop is not None

    def feed(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None = None
    ) -> list[ItemEvent]:
        """Returns what the next tokens of the engine say. `logprobs`, if given, has one entry a token."""
        if self._has_begun and logprobs is None and token_ids:
            reader = self._reader
            pending = reader.characters.pending
            text = reader.read_text(token_ids)
            if text is not None:
                if self._item is REASONING:
                    self._reasoning_tokens += len(token_ids)
                elif self._is_searched and self._content is not None:
                    return self._content_events(self._content, text, token_ids, pending)
                return [Delta(text)] if text else []
        events: list[ItemEvent] = []
        if self._stop is not None:
            return events
        if logprobs is None and not self._is_searched:
            self._take(self._reader.feed(token_ids), events)
        else:
            self._feed_by_token(token_ids, logprobs, events)
        self._show(events)
        return events

    def _content_events(
        self, content: Content, text: str, token_ids: Sequence[int], pending: bytes
    ) -> list[ItemEvent]:
        """Returns what can be shown after tokens of content; `pending` as `Reader.tokens_for` needs it."""
        reader = self._reader
        position = reader.num_tokens - len(token_ids)
        text, logprobs = content.feed(
            text, position, tokens_for=lambda num_chars: reader.tokens_for(num_chars, token_ids, pending)
        )
        events: list[ItemEvent] = [Delta(text, tuple(logprobs))] if text or logprobs else []
        if content.match is not None:
            self._stop_here(content, events)
        return events

    def end(self, reason: Literal["stop", "length"], stop_token: int | None = None) -> list[ItemEvent]:
        """Returns what is left when the engine has ended, `AnswerEnded` last. Nothing may follow.

        `stop_token` is the one of the request's `stop_token_ids` that has ended it.
        """
        events: list[ItemEvent] = []
        if self._stop is None:
            is_cut = reason == "length"
            for event in self._reader.end(is_cut=is_cut):
                if isinstance(event, MessageEnd):
                    # Whoever asks for an end at a token gets a whole text. No call is whole without its end.
                    is_complete = not is_cut and not isinstance(self._item, CallBegan)
                    self._end_item(events, is_complete=event.is_closed or is_complete)
                else:
                    self._take([event], events)
        has_ended = reason == "stop" and not self._has_cut_call
        finish = Finish.LENGTH
        if self._stop is not None or has_ended:
            finish = Finish.CALLS if self._num_complete_calls else Finish.STOP
        stop_string, num_tokens = self._stop or (None, self._reader.num_tokens)
        if stop_string is not None:
            stop_token = None
        events.append(AnswerEnded(finish, num_tokens, self._reasoning_tokens, stop_string, stop_token))
        return events

    def _feed_by_token(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None, events: list[ItemEvent]
    ) -> None:
        """Feeds token by token: where a stop string may end the answer, or log probabilities go along."""
        if logprobs is not None:
            self._logprobs.update(enumerate(logprobs, self._reader.num_tokens))
        for token in token_ids:
            self._take(self._reader.feed((token,)), events)
            if self._stop is not None:
                break

    def _take(self, messages: Sequence[MessageEvent], events: list[ItemEvent]) -> None:
        for event in messages:
            if self._stop is not None:
                break
            if isinstance(event, Text):
                self._text(event, events)
            elif isinstance(event, MessageEnd):
                self._end_item(events, is_complete=event.is_closed)
            else:
                self._begin(event, events)

    def _begin(self, header: Header, events: list[ItemEvent]) -> None:
        self._item = self._items.item_of(header)
        self._has_begun = False
        if isinstance(self._item, TextBegan):
            self._content = Content(self._stop_strings, keeps_stop_string=self._offer.keeps_stop_string)
        elif isinstance(self._item, CallBegan):
            self._begin_item(self._item, events)

    def _begin_item(self, item: Item, events: list[ItemEvent]) -> None:
        events.append(item)
        self._has_begun = True

    def _text(self, text: Text, events: list[ItemEvent]) -> None:
        logprob = self._logprobs.pop(text.position, None) if text.num_tokens else None
        if self._item is None:
            return
        if self._item is REASONING:
            self._reasoning_tokens += text.num_tokens
        if self._content is None:
            self._release((text.text, []), events)
            return
        self._release(self._content.feed(text.text, text.position, logprob), events)
        if self._content.match is not None:
            self._stop_here(self._content, events)

    def _release(self, released: Released, events: list[ItemEvent]) -> None:
        text, logprobs = released
        if text and not self._has_begun and self._item is not None:
            self._begin_item(self._item, events)
        if text:
            self._released.append(text)
        self._released_logprobs += logprobs

    def _show(self, events: list[ItemEvent]) -> None:
        """Makes one event of all text that was released since the last one."""
        if self._released or self._released_logprobs:
            events.append(Delta("".join(self._released), tuple(self._released_logprobs)))
            self._released, self._released_logprobs = [], []

    def _stop_here(self, content: Content, events: list[ItemEvent]) -> None:
        assert content.match is not None
        self._stop = content.match.string, content.last_position + 1
        self._content = None
        self._end_item(events, is_complete=True)

    def _end_item(self, events: list[ItemEvent], *, is_complete: bool) -> None:
        content, self._content = self._content, None
        if content is not None:
            self._release(content.end(), events)
            if content.match is not None:
                self._stop_here(content, events)
                return
        self._show(events)
        if self._has_begun:
            events.append(ItemEnded(is_complete))
            if isinstance(self._item, CallBegan):
                self._num_complete_calls += is_complete
                self._has_cut_call = not is_complete
        self._item, self._has_begun = None, False
