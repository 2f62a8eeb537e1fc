"""Where the steps of an answer's sequences arrive, until they are read: what comes meanwhile is one step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from serve_app.answers.items import TokenLogprob

Reason = Literal["stop", "length"]


@dataclass(slots=True)
class Step:
    """What has come of one sequence since it was last looked at."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    """One for each token, if they were asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """One for each token of the prompt but None for the first, if they were asked for; in the first step."""
    num_cached_tokens: int | None = None
    """How much of the prompt came from the prefix cache; in the first step."""
    finish: Reason | None = None
    """Set in the last step."""
    stop_token: int | None = None
    """The token of the request's `stop_token_ids` that ended it."""


class Inbox:
    """One for each answer, read by one task. Must be used in one event loop."""

    def __init__(
        self,
        max_unread_tokens: int | None = None,
        on_overflow: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
        *,
        is_for_whole_answers: bool = False,
    ) -> None:
        """`on_overflow` is called when more than `max_unread_tokens` wait; it is expected to `fail` this.
        `on_failure` is called when it has failed, however long it takes until that is read.

        `is_for_whole_answers`: `take` returns when a sequence has ended, and not at every step of it.
        """
        self._max_unread_tokens, self._on_overflow = max_unread_tokens, on_overflow
        self._on_failure = on_failure
        self._is_for_whole_answers, self._is_ready = is_for_whole_answers, False
        self._steps: dict[int, Step] = {}
        self._num_unread = 0
        self._error: Exception | None = None
        self._is_woken = False
        self._waiter: asyncio.Future[None] | None = None

    def step(self, choice: int) -> Step:
        """Returns the step of a choice that is being collected, to be added to. `added` must follow."""
        step = self._steps.get(choice)
        if step is None:
            step = self._steps[choice] = Step()
        return step

    def added(self, num_tokens: int, *, is_last: bool) -> None:
        """Says that so many tokens were added to a step, whatever else it has, and whether it is the last."""
        self._num_unread += num_tokens
        limit = self._max_unread_tokens
        if limit is not None and self._num_unread > limit and self._error is None:
            self._on_overflow()
        if is_last or not self._is_for_whole_answers:
            self._is_ready = True
            self._wake()

    def fail(self, error: Exception) -> None:
        """Ends the answer with an error, after what has arrived. The first error counts."""
        if self._error is None:
            self._error = error
            self._is_ready = True
            self._wake()
            self._on_failure()

    def wake(self) -> None:
        """Has `take` return, even if nothing has arrived."""
        self._is_woken = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def take(self) -> dict[int, Step]:
        """Returns what has arrived since the last call, by choice; nothing only after `wake`.

        Waits for it. Raises what `fail` was given, once everything before it has been taken.
        """
        while not self._is_ready and not self._is_woken:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._is_ready and not self._steps and self._error is not None:
            raise self._error
        steps: dict[int, Step] = {}
        if self._is_ready:
            steps, self._steps = self._steps, {}
            self._num_unread = 0
            self._is_ready = self._error is not None
        self._is_woken = False
        return steps
