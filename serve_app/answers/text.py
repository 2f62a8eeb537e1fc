"""The reader for Completions: tokens to text, whatever they are; no harmony."""

from __future__ import annotations

import codecs
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.answers.items import AnswerEnded, Delta, Finish, ItemEvent, TokenLogprob
from serve_app.answers.offer import PlainText
from serve_app.answers.stop_strings import StopSearch, StopStrings
from serve_app.harmony.tokens import CALL, ENDOFTEXT, FIRST_SPECIAL, RETURN, Vocabulary

# Those with which the model ends an answer.
_MODEL_ENDS = frozenset({RETURN, CALL, ENDOFTEXT})


@dataclass(slots=True)
class _Token:
    """A token of which not all text was returned."""

    number: int
    num_chars: int
    """Characters of the text behind it."""
    is_partial: bool
    """Whether it ends within a character."""
    logprob: TokenLogprob | None


class TextReader:
    """Tokens in, `Delta`s and one `AnswerEnded` out. No item begins or ends: the answer is one text.

    Log probabilities are those of all tokens up to the end. Each comes with the text of its token, or with an
    empty one where the token has none.
    """

    def __init__(self, plain: PlainText, vocabulary: Vocabulary) -> None:
        self._plain, self._bytes_of = plain, vocabulary.bytes_of
        self._first_hidden = FIRST_SPECIAL if plain.skips_special_tokens else len(vocabulary.token_bytes)
        # The last token is held back if it may have ended the answer, and then is no part of the text.
        hidden = () if plain.skips_special_tokens else _MODEL_ENDS
        self._ends = frozenset() if plain.keeps_stop_string else plain.stop_tokens.union(hidden)
        self._held: tuple[int, TokenLogprob | None] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        strings = StopStrings.of(plain.stop)
        self._search = StopSearch(strings) if strings else None
        self._num_tokens = self._num_chars = self._num_released = 0
        self._num_unsearched = 0
        self._waiting: deque[_Token] = deque()
        self.is_over = False
        """Whether a stop string has ended the answer; what is fed then is ignored."""
        self.repairs: Counter[str] = Counter()
        """Always empty: any text is right."""

    def feed(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None = None
    ) -> list[ItemEvent]:
        """Returns what has become certain of the text. `logprobs` are those of `token_ids`, one for each."""
        if self.is_over or not token_ids:
            return []
        tokens = list(token_ids)
        known: list[TokenLogprob | None] = [None] * len(tokens) if logprobs is None else list(logprobs)
        if self._held is not None:
            tokens.insert(0, self._held[0])
            known.insert(0, self._held[1])
            self._held = None
        if tokens[-1] in self._ends:
            self._held = tokens.pop(), known.pop()
        text = self._read(tokens, known, logprobs is not None)
        return self._deltas(text)

    def end(self, reason: Literal["stop", "length"], stop_token: int | None = None) -> list[ItemEvent]:
        """Returns the rest, and why the answer ended: as the engine says, unless a stop string has ended it.

        `stop_token` is the token of the request's that ended it.
        """
        text = ""
        if not self.is_over:
            if self._held is not None:
                token_id, logprob = self._held
                self._held = None
                if reason == "length":
                    text = self._read([token_id], [logprob], logprob is not None)
                else:
                    self._num_tokens += 1
                    self._waiting.append(_Token(self._num_tokens, self._num_chars, False, logprob))
            if not self.is_over:
                text += self._found(self._decoder.decode(b"", final=True))
        match, finish, num_tokens = None, Finish(reason), self._num_tokens
        if self._search is not None:
            text += self._search.end()
            match = self._search.match
        if match is not None:
            text += match.string if self._plain.keeps_stop_string else ""
            finish, num_tokens = Finish.STOP, self._number_at(match.end)
        logprobs = tuple(
            token.logprob
            for token in self._waiting
            if token.logprob is not None and token.number <= num_tokens
        )
        events: list[ItemEvent] = [Delta(text, logprobs)] if text or logprobs else []
        ended = AnswerEnded(
            finish,
            num_tokens,
            0,
            match.string if match else None,
            stop_token if match is None else None,
        )
        return [*events, ended]

    def _read(self, tokens: list[int], logprobs: list[TokenLogprob | None], has_logprobs: bool) -> str:
        """Returns what is certain of the text with more tokens."""
        if not has_logprobs and self._search is None:
            self._num_tokens += len(tokens)
            first_hidden, bytes_of = self._first_hidden, self._bytes_of
            return self._decoder.decode(
                b"".join([bytes_of(token) for token in tokens if token < first_hidden])
            )
        texts: list[str] = []
        num_unsearched = 0
        first = self._num_chars
        for token, logprob in zip(tokens, logprobs, strict=True):
            texts.append(self._decoder.decode(self._bytes_of(token)) if token < self._first_hidden else "")
            self._num_tokens += 1
            self._num_chars += len(texts[-1])
            is_partial = bool(self._decoder.getstate()[0])
            self._waiting.append(_Token(self._num_tokens, self._num_chars, is_partial, logprob))
            if self._num_tokens <= self._plain.min_tokens:
                num_unsearched = self._num_chars - first
        text = "".join(texts)
        self._num_unsearched += num_unsearched
        self._num_released += num_unsearched
        return text[:num_unsearched] + self._found(text[num_unsearched:])

    def _found(self, text: str) -> str:
        """Returns what is certain with more text that may hold stop strings."""
        if self._search is None:
            self._num_released += len(text)
            return text
        released = self._search.feed(text)
        self._num_released += len(released)
        self.is_over = self._search.is_decided
        return released

    def _deltas(self, text: str) -> list[ItemEvent]:
        released, waiting = self._num_released, self._waiting
        logprobs: list[TokenLogprob] = []
        while waiting and waiting[0].num_chars + waiting[0].is_partial <= released:
            logprob = waiting.popleft().logprob
            if logprob is not None:
                logprobs.append(logprob)
        return [Delta(text, tuple(logprobs))] if text or logprobs else []

    def _number_at(self, end: int) -> int:
        """Returns the number of the token that has completed the first `end` characters of the search."""
        end += self._num_unsearched
        return next((token.number for token in self._waiting if token.num_chars >= end), self._num_tokens)
