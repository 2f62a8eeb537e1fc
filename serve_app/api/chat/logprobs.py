"""Log probabilities as Chat Completions has them: tokens as text and as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.answers.items import TokenLogprob
from serve_app.api.chat.response import Logprobs, TokenLogprobs, TopLogprob

# JSON has no infinity. vLLM's number for it.
MIN_LOGPROB = -9999.0


class LogprobsWriter:
    """Writes those of one answer."""

    def __init__(
        self, detokenize: Callable[[int], bytes], max_top: int | None, has_token_names: bool
    ) -> None:
        """`max_top` alternatives at each token, None for all that are there.

        Without `has_token_names`, a token is `token_id:NUMBER`.
        """
        self._detokenize, self._max_top, self._has_token_names = detokenize, max_top, has_token_names

    def write(self, logprobs: Sequence[TokenLogprob]) -> Logprobs:
        """Returns the object for tokens that follow each other."""
        return Logprobs(
            [
                TokenLogprobs(
                    *self._token(item.token_id, item.logprob),
                    [TopLogprob(*self._token(*other)) for other in item.alternatives[: self._max_top]],
                )
                for item in logprobs
            ]
        )

    def _token(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        token_bytes = self._detokenize(token_id)
        # A token may hold a part of a character.
        name = token_bytes.decode(errors="replace") if self._has_token_names else f"token_id:{token_id}"
        return name, max(logprob, MIN_LOGPROB), list(token_bytes)
