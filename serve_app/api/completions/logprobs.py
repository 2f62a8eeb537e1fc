"""Log probabilities as legacy Completions shows them: OpenAI's four lists, and vLLM's of the prompt."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from serve_app.answers.items import TokenLogprob
from serve_app.api.completions.response import Logprobs, PromptLogprob, PromptLogprobs
from serve_app.harmony.tokens import FIRST_SPECIAL

# JSON has no infinity; OpenAI's least log probability.
MIN_LOGPROB = -9999.0


class TokenTexts:
    """The texts of tokens, one after the other.

    A token's text is what it completes: a character of several tokens is that of the last of them. So the
    texts of all tokens make up the whole, and an alternative's text is what would have stood in its place.
    """

    def __init__(self, detokenize: Callable[[int], bytes]) -> None:
        self._detokenize = detokenize
        self._pending = b""

    def take(self, token_id: int) -> tuple[str, bytes]:
        """Returns the text of the next token, and what `alternative` needs for those in its place."""
        pending = self._pending
        content = pending + self._detokenize(token_id)
        text, num_bytes = codecs.utf_8_decode(content, "replace", False)
        self._pending = content[num_bytes:]
        return text, pending

    def alternative(self, pending: bytes, token_id: int) -> str:
        """Returns the text of a token in the place of the one that `take` has returned `pending` with."""
        return codecs.utf_8_decode(pending + self._detokenize(token_id), "replace", False)[0]

    def name(self, token_id: int) -> str:
        """Returns the text of a token by itself."""
        return self._detokenize(token_id).decode(errors="replace")

    def part_ends(self) -> str:
        """Returns U+FFFD if a character is not complete: what comes next is another text."""
        text = "\ufffd" if self._pending else ""
        self._pending = b""
        return text


class LogprobReader:
    """Tokens of one choice, with their log probabilities, to `Logprobs`."""

    def __init__(
        self,
        detokenize: Callable[[int], bytes],
        num_alternatives: int | None,
        *,
        names_tokens_by_id: bool,
        skips_special_tokens: bool,
    ) -> None:
        """`num_alternatives`: None for all that there are."""
        self._texts = TokenTexts(detokenize)
        self._num_alternatives = num_alternatives
        self._by_id, self._skips_special = names_tokens_by_id, skips_special_tokens
        self._offset = 0

    def read(self, token_id: int, token: TokenLogprob | None, into: Logprobs) -> None:
        """Adds a token. Its log probability is not known where `token` is None (the prompt's first)."""
        # One that is left out of the text is in the list nevertheless, as the other ends of the answer are.
        is_hidden = self._skips_special and token_id >= FIRST_SPECIAL
        text, pending = (self._texts.name(token_id), b"") if is_hidden else self._texts.take(token_id)
        into.text_offset.append(self._offset)
        into.tokens.append(self._shown(token_id, text))
        if not is_hidden:
            self._offset += len(text)
        if token is None:
            into.token_logprobs.append(None)
            into.top_logprobs.append(None)
            return
        logprob = finite(token.logprob)
        into.token_logprobs.append(logprob)
        top = {self._shown(token_id, text): logprob}
        for other_id, other in token.alternatives[: self._num_alternatives]:
            if other_id != token_id:
                # Two may have the same text; the likelier one is shown.
                shown = self._shown(other_id, self._texts.alternative(pending, other_id))
                top.setdefault(shown, finite(other))
        into.top_logprobs.append(top)

    def read_prompt(
        self, token_ids: Sequence[int], tokens: Sequence[TokenLogprob | None], into: Logprobs
    ) -> None:
        """Adds the tokens of an echoed prompt, special ones as part of its text."""
        skips, self._skips_special = self._skips_special, False
        for token_id, token in zip(token_ids, tokens, strict=False):
            self.read(token_id, token, into)
        self._skips_special = skips
        self._offset += len(self._texts.part_ends())

    def _shown(self, token_id: int, text: str) -> str:
        return f"token_id:{token_id}" if self._by_id else text


def prompt_logprobs(
    token_ids: Sequence[int], tokens: Sequence[TokenLogprob | None], detokenize: Callable[[int], bytes]
) -> PromptLogprobs:
    """Returns vLLM's `prompt_logprobs`: by token id, for each token of a prompt."""
    shown: PromptLogprobs = []
    texts = TokenTexts(detokenize)
    for token_id, token in zip(token_ids, tokens, strict=False):
        text, pending = texts.take(token_id)
        if token is None:
            shown.append(None)
            continue
        entries = {str(token_id): PromptLogprob(finite(token.logprob), token.rank, text)}
        for rank, (other_id, logprob) in enumerate(token.alternatives, start=1):
            if other_id == token_id:
                entries[str(token_id)].rank = rank
            else:
                text = texts.alternative(pending, other_id)
                entries[str(other_id)] = PromptLogprob(finite(logprob), rank, text)
        shown.append(entries)
    return shown


def finite(logprob: float) -> float:
    """Returns a log probability that JSON can hold."""
    return max(logprob, MIN_LOGPROB)
