"""The reader: the tokens of an answer to its messages. Any tokens are an answer; nothing here raises.

    HEADER ──<|message|>──► TEXT ──<|end|>──► BETWEEN ──<|start|>, <|channel|>──► HEADER
       any ──<|return|>, <|call|>, <|endoftext|>──► OVER

The prompt has opened the first header. A tool's result that the model has invented ends the answer. Whatever
else comes is read as well as it can be, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from serve_app.harmony.characters import Characters
from serve_app.harmony.header import Author, Header, read_header
from serve_app.harmony.header_parts import PartKind, may_be_header
from serve_app.harmony.raw_part import RawPart, Text
from serve_app.harmony.recipients import Names
from serve_app.harmony.slips import Slip
from serve_app.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    Vocabulary,
)

# More tokens than the words of a header between two messages can be; what is longer is a text.
_MAX_STRAY_WORDS = 32
# A header has three parts. What a model says behind so many markers is of the last part: reading some ten
# thousand of them when the message begins would hold up all streams.
_MAX_PARTS = 64


class MessageEnd(NamedTuple):
    """The open message ends."""

    is_closed: bool
    """False: the answer was over before the message was."""


MessageEvent = Header | Text | MessageEnd
"""A message is a `Header`, any number of `Text`, and a `MessageEnd`."""


class State(Enum):
    """Where in an answer its next token stands."""

    HEADER = "header"
    TEXT = "text"
    BETWEEN = "between"
    OVER = "over"


class Reader:
    """Reads one answer."""

    __slots__ = ("_bytes", "_is_stray", "_names", "_parts", "_slips", "characters", "num_tokens", "state")

    def __init__(
        self, vocabulary: Vocabulary, names: Names, slips: Counter[str], *, is_continued: bool = False
    ) -> None:
        """`slips` counts what is not as it should be.

        With `is_continued` the answer begins inside a text, whose header the caller knows.
        """
        self._bytes = vocabulary.token_bytes
        self._names = names
        self._slips = slips
        self.characters = Characters()
        """Those of the text that is open."""
        self.num_tokens = 0
        """All that were fed."""
        self.state = State.TEXT if is_continued else State.HEADER
        # Those of the header that is open; between messages, the whitespace that stands there.
        self._parts = [] if is_continued else [self._part(PartKind.ROLE, is_first=True)]
        # Of a header: whether it is text between messages that may still be content. Of a text: whether it is
        # such content, and no message.
        self._is_stray = False

    def read_text(self, token_ids: Sequence[int]) -> str | None:
        """Returns the text of one or more tokens that only continue a text; None if they do not.

        It is `feed` for nearly all tokens of an answer, without its detours. With None, nothing has happened.
        """
        if self.state is not State.TEXT or max(token_ids) >= FIRST_SPECIAL or min(token_ids) < 0:
            return None
        self.num_tokens += len(token_ids)
        token_bytes = self._bytes
        return self.characters.decode(b"".join([token_bytes[token] for token in token_ids]))

    def tokens_for(self, num_chars: int, token_ids: Sequence[int], pending: bytes) -> int:
        """Returns how many of the tokens of a text it takes to complete so many characters.

        `pending` are the bytes of `characters` before them.
        """
        characters = Characters(pending)
        for num_tokens, token in enumerate(token_ids, 1):
            num_chars -= len(characters.decode(self._bytes[token]))
            if num_chars <= 0:
                return num_tokens
        return len(token_ids)

    def feed(self, token_ids: Sequence[int]) -> list[MessageEvent]:
        """Returns what the next tokens say."""
        events: list[MessageEvent] = []
        index, num_tokens = 0, len(token_ids)
        while index < num_tokens:
            if self.state is State.OVER:
                self._slips[Slip.LATE_TOKENS] = 1
                self.num_tokens += num_tokens - index
                break
            end = index
            # Between messages each token decides anew what the ones before it were.
            is_unclear = self.state is State.BETWEEN or (self.state is State.HEADER and self._is_stray)
            last = index + 1 if is_unclear else num_tokens
            while end < last and 0 <= token_ids[end] < FIRST_SPECIAL:
                end += 1
            if end > index:
                self._text(token_ids[index:end], events)
            else:
                self._special(token_ids[index], events)
                end += 1
            self.num_tokens += end - index
            index = end
        return events

    def end(self, *, is_cut: bool) -> list[MessageEvent]:
        """Returns what is left when the engine has ended; `is_cut`: by the token limit."""
        events: list[MessageEvent] = []
        if self.state is State.TEXT:
            self._end_text(events, is_closed=False)
        elif self.state is State.HEADER:
            self._end_header(events, is_last=True, is_closed=False, is_cut=is_cut)
        self._over()
        return events

    def _text(self, token_ids: Sequence[int], events: list[MessageEvent]) -> None:
        position = self.num_tokens
        if self.state is State.TEXT:
            text = self.characters.decode(b"".join([self._bytes[token] for token in token_ids]))
            events.append(Text(text, position, len(token_ids)))
            return
        if self.state is State.BETWEEN and not self._parts:
            self._slips[Slip.STRAY_TEXT] += 1
            self._parts = [self._part(PartKind.ROLE)]
        part = self._parts[-1]
        part.add(token_ids, position)
        if self.state is State.BETWEEN and not self._decode(token_ids).isspace():
            self.state, self._is_stray = State.HEADER, True
        if self._is_stray and not (
            len(part.ids) <= _MAX_STRAY_WORDS and may_be_header(part.text, self._names)
        ):
            self._begin_text(Header("final"), events)
            self._is_stray = True
            events += [
                Text(self.characters.decode(self._bytes[token]), position, 1)
                for token, position in zip(part.ids, part.positions, strict=True)
            ]

    def _decode(self, token_ids: Sequence[int]) -> str:
        return b"".join([self._bytes[token] for token in token_ids]).decode(errors="replace")

    def _part(self, kind: PartKind, *, is_first: bool = False) -> RawPart:
        return RawPart(kind, self._bytes, is_first=is_first)

    def _special(self, token: int, events: list[MessageEvent]) -> None:
        if token in (END, RETURN, CALL, ENDOFTEXT):
            self._end(events, is_last=token != END)
        elif token == START:
            self._start(events)
        elif token == CHANNEL:
            self._channel(events)
        elif token == MESSAGE and (self.state is not State.TEXT or self._is_stray):
            self._message(events)
        elif token == CONSTRAIN and self.state is State.HEADER:
            self._is_stray = False
            self._add_part(PartKind.TYPE)
        else:
            self._slips[Slip.SPECIAL_IN_TEXT if self.state is State.TEXT else Slip.STRAY_TOKEN] += 1

    def _end(self, events: list[MessageEvent], *, is_last: bool) -> None:
        """`<|end|>`, or with `is_last` what ends the answer."""
        if self.state is State.TEXT:
            self._end_text(events, is_closed=True)
        elif self.state is State.HEADER:
            self._end_header(events, is_last=is_last, is_closed=True)
        else:
            self._slips[Slip.STRAY_TOKEN] += 1
        if is_last:
            self._over()
        else:
            self.state, self._is_stray, self._parts = State.BETWEEN, False, []

    def _over(self) -> None:
        self.state, self._is_stray, self._parts = State.OVER, False, []

    def _start(self, events: list[MessageEvent]) -> None:
        if self.state is State.TEXT:
            self._slips[Slip.NO_END] += 1
            self._end_text(events, is_closed=True)
        elif self.state is State.HEADER:
            self._slips[Slip.NO_MESSAGE] += 1
        self.state, self._is_stray, self._parts = State.HEADER, False, [self._part(PartKind.ROLE)]

    def _channel(self, events: list[MessageEvent]) -> None:
        if self.state is State.TEXT:
            self._slips[Slip.NO_END] += 1
            self._end_text(events, is_closed=True)
        elif self.state is State.BETWEEN or self._is_stray:
            self._slips[Slip.NO_START] += 1
        if self.state is not State.HEADER:
            self._parts = []
        self.state, self._is_stray = State.HEADER, False
        self._add_part(PartKind.CHANNEL)

    def _add_part(self, kind: PartKind) -> None:
        if len(self._parts) < _MAX_PARTS:
            self._parts.append(self._part(kind))
        else:
            self._slips[Slip.STRAY_TOKEN] += 1

    def _message(self, events: list[MessageEvent]) -> None:
        if self.state is State.TEXT:
            self._end_text(events, is_closed=True)
        if self.state is not State.HEADER or self._is_stray:
            self._slips[Slip.NO_START] += 1
        parts = [part.read(self._names) for part in self._parts] if self.state is State.HEADER else []
        header = read_header(parts, self._names, self._slips)
        self._begin_text(header, events)
        if header.author is Author.TOOL:
            # What the model makes of a result that it has invented is of no use to anybody.
            events.append(MessageEnd(is_closed=True))
            self._over()

    def _begin_text(self, header: Header, events: list[MessageEvent]) -> None:
        events.append(header)
        self.state, self._is_stray, self._parts = State.TEXT, False, []

    def _end_text(self, events: list[MessageEvent], *, is_closed: bool) -> None:
        if rest := self.characters.end():
            events.append(Text(rest, self.num_tokens - 1, 0))
        if self.characters.num_bad:
            self._slips[Slip.BAD_UTF8] += self.characters.num_bad
            self.characters.num_bad = 0
        events.append(MessageEnd(is_closed))

    def _end_header(
        self, events: list[MessageEvent], *, is_last: bool, is_closed: bool, is_cut: bool = False
    ) -> None:
        """Ends a header without `<|message|>`: what of it is text is content.

        In the role part always; elsewhere only if it is the last of the answer (`is_last`).
        """
        if is_closed:
            self._slips[Slip.NO_MESSAGE] += 1
        parts = [part.read(self._names) for part in self._parts]
        if read_header(parts, self._names, Counter()).author is not Author.ASSISTANT:
            return
        pieces: list[Text] = []
        for raw, part in zip(self._parts, parts, strict=True):
            if not is_last and raw.kind is not PartKind.ROLE:
                continue
            start, end = part.text_span(self._names, is_cut=is_cut)
            if start < end:
                if pieces:
                    pieces.append(Text(" ", pieces[-1].position, 0))
                pieces += raw.pieces(start, end)
        if pieces:
            self._slips[Slip.TEXT_IN_HEADER] += 1
            events += [Header("final"), *pieces, MessageEnd(is_closed)]
