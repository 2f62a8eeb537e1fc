"""What an answer has cost, in tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens; all are numbers, whatever is not known is 0."""

    prompt_tokens: int
    completion_tokens: int
    """Up to the end of the answer, or up to the token that completed a stop string."""
    reasoning_tokens: int = 0
    """Those of the texts of messages on the channel `analysis`, part of `completion_tokens`."""
    cached_tokens: int = 0
    """Those of the prompt that came from the prefix cache, part of `prompt_tokens`."""

    @property
    def total_tokens(self) -> int:
        """Prompt and answer."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        """The usage of several choices of one prompt: the prompt counts once."""
        return Usage(
            self.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cached_tokens,
        )
