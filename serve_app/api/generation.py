"""Generation: an exchange to sequences in engines, and their tokens to the events of its API."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from serve_app.admission.slot_grants import SlotGrant
from serve_app.answers.answer import AnswerReader
from serve_app.answers.items import AnswerEnded, ItemEvent, TokenLogprob
from serve_app.answers.offer import Offer
from serve_app.answers.text import TextReader
from serve_app.answers.usage import Usage
from serve_app.api.exchange import Encoder, Exchange, Start
from serve_app.api.inbox import Inbox, Reason, Step
from serve_app.api.sampling import Sampling
from serve_app.api.throttle import Throttle
from serve_app.errors import BadRequestError, ModelNotFoundError, SlowClientError
from serve_app.harmony.conversation import Conversation
from serve_app.harmony.renderer import PromptTooLongError, Renderer
from serve_app.harmony.tokens import FIRST_SPECIAL, Vocabulary

logger = logging.getLogger("ray.serve")

# A sequence takes the event loop up to a millisecond until it is on its way, and others want it too.
STARTED_AT_ONCE = 4

Event = TypeVar("Event")


class EngineSequence(Protocol):
    """A sequence that an engine is working on."""

    num_lost: int
    """Engines that it has lost; it goes on in another one."""

    def cancel(self) -> None:
        """Ends it; nothing more arrives. Also after its end."""


class Engines(Protocol):
    """What generates: see `vllm_adapter.RemoteEngine`."""

    def sampling_params(self, sampling: Sampling, structural_tag: str | None) -> Any:
        """Returns the engine's form of the parameters. Raises `BadRequestError`."""

    def start(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: Any,
        sampling: Sampling,
        grant: SlotGrant,
        inbox: Inbox,
        choice: int,
        seed_offset: int,
    ) -> EngineSequence:
        """Begins a sequence, whose steps and error go to `inbox`."""


class TokenReader(Protocol):
    """`AnswerReader` or `TextReader`."""

    @property
    def is_over(self) -> bool:
        """Whether a stop string has ended the answer."""

    def feed(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] | None = None
    ) -> Sequence[ItemEvent]:
        """Returns the events of more tokens."""

    def end(self, reason: Reason, stop_token: int | None = None) -> Sequence[ItemEvent]:
        """Returns the rest of the events, `AnswerEnded` last."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may take."""

    max_model_len: int
    max_unread_tokens: int
    max_chunks_per_second: float | None = None


class Generator:
    """Runs exchanges. One for each ingress."""

    def __init__(
        self,
        engines: Engines,
        vocabulary: Vocabulary,
        served_names: Sequence[str],
        limits: Limits,
        check_grammar: Callable[[str, str], Awaitable[None]],
        count_repairs: Callable[[str, Iterable[tuple[str, int]]], None],
    ) -> None:
        """`check_grammar` raises for a structural tag that cannot become a grammar, given its field's name.

        `count_repairs` is told the API's name, kinds of repairs and how often each was made.
        """
        self._engines, self._vocabulary = engines, vocabulary
        self._renderer = Renderer(vocabulary)
        self._served_names, self._limits = served_names, limits
        self._check_grammar, self._count_repairs = check_grammar, count_repairs

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return self._limits.max_model_len

    def params(self, exchange: Exchange[Any]) -> Any:
        """Returns the engine's sampling parameters. Raises what refuses a request that cannot run."""
        self.check_model(exchange.model)
        grammar = exchange.grammar
        if grammar:
            _check_leaves_tokens(exchange.sampling, grammar.param)
        return self._engines.sampling_params(exchange.sampling, grammar.structural_tag if grammar else None)

    async def check_grammar(self, exchange: Exchange[Any]) -> None:
        """Raises `BadRequestError` for a grammar that cannot be compiled."""
        if grammar := exchange.grammar:
            await self._check_grammar(grammar.structural_tag, grammar.param)

    def check_model(self, model: str | None) -> None:
        """Raises `ModelNotFoundError` for a name that is not served; none is the service's only model."""
        if model is not None and model not in self._served_names:
            raise ModelNotFoundError(
                f"the model {model[:100]!r} is not served here; there is {self._served_names[0]!r}"
            )

    def render(self, conversation: Conversation) -> list[int]:
        """Returns the prompt of a conversation, however long it is."""
        return self._renderer.render(conversation)

    def prompts(self, exchange: Exchange[Any], param: str) -> Sequence[Sequence[int]]:
        """Returns the token ids of an exchange's prompts. `param` is the field that they come from.

        Raises `BadRequestError` for a prompt that leaves no room for an answer.
        """
        limit = self._limits.max_model_len - 1
        try:
            if exchange.conversation is not None:
                return (self._renderer.render(exchange.conversation, limit),)
            for prompt in exchange.prompts:
                if len(prompt) > limit:
                    raise PromptTooLongError(len(prompt), limit)
        except PromptTooLongError as error:
            raise BadRequestError(
                f"the prompt has {error.num_tokens} tokens or more; this model's context holds {limit + 1}, "
                "the answer included",
                param,
                "context_length_exceeded",
            ) from None
        return exchange.prompts

    async def start(
        self,
        api: str,
        exchange: Exchange[Event],
        params: Any,
        prompts: Sequence[Sequence[int]],
        request_id: str,
        take_slot: Callable[[], SlotGrant],
    ) -> Run[Event]:
        """Starts the sequences of a request, a few at a time. The caller closes what is returned."""
        start = Start(self._served_names[0], int(time.time()), prompts[0], self._vocabulary.bytes_of)
        # Those who wait for stop strings have to look at every step.
        is_whole = not exchange.is_streamed and not exchange.offer.stop
        throttle = Throttle(self._limits.max_chunks_per_second if exchange.is_streamed else None)
        run = Run(
            exchange.new_encoder(start),
            lambda: self._new_reader(exchange),
            [prompt for prompt in prompts for _ in range(exchange.num_choices)],
            self._limits.max_unread_tokens if exchange.is_streamed else None,
            is_whole,
            throttle,
            lambda repairs: self._count_repairs(api, repairs),
        )
        try:
            for choice, prompt in enumerate(run.prompts):
                if choice and choice % STARTED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                grant, seed_offset = take_slot(), choice % exchange.num_choices
                try:
                    sequence = self._engines.start(
                        request_id, prompt, params, exchange.sampling, grant, run.inbox, choice, seed_offset
                    )
                except BaseException:
                    grant.release(0)
                    raise
                run.sequences.append(sequence)
        except BaseException:
            run.close()
            raise
        return run

    def _new_reader(self, exchange: Exchange[Any]) -> AnswerReader | TextReader:
        if isinstance(exchange.offer, Offer):
            return AnswerReader(exchange.offer, self._vocabulary)
        return TextReader(exchange.offer, self._vocabulary)


class Run(Generic[Event]):
    """One answer while it is generated. `close` it, however it ends."""

    def __init__(
        self,
        encoder: Encoder[Event],
        new_reader: Callable[[], AnswerReader | TextReader],
        prompts: Sequence[Sequence[int]],
        max_unread_tokens: int | None,
        is_whole: bool,
        throttle: Throttle,
        count_repairs: Callable[[Iterable[tuple[str, int]]], None],
    ) -> None:
        self.encoder, self.prompts = encoder, prompts
        self.sequences: list[EngineSequence] = []
        # One that fails takes the others with it at once, and not when its client has read what came before.
        self.inbox = Inbox(max_unread_tokens, self._overflow, self.close, is_for_whole_answers=is_whole)
        self._max_unread_tokens = max_unread_tokens
        self._readers = [new_reader() for _ in prompts]
        self._ends: dict[int, AnswerEnded] = {}
        self._num_cached = [0] * len(prompts)
        self._throttle, self._count_repairs = throttle, count_repairs

    @property
    def is_over(self) -> bool:
        """Whether all events have been returned."""
        return len(self._ends) == len(self._readers)

    async def next_events(self) -> list[Event]:
        """Returns the events of what has arrived; none where it says nothing yet, or after `inbox.wake`.

        Raises the `ServiceError` that ended the answer, after what came before it.
        """
        if self._throttle.is_set:
            await self._throttle.wait()
        events: list[Event] = []
        for choice, step in (await self.inbox.take()).items():
            if choice not in self._ends:
                self._read(choice, step, events)
        if self.is_over:
            events.extend(self.encoder.end(self.usage()))
            self._report_repairs()
        return events

    def _read(self, choice: int, step: Step, events: list[Event]) -> None:
        reader: TokenReader = self._readers[choice]
        if step.num_cached_tokens is not None:
            self._num_cached[choice] = step.num_cached_tokens
        if step.prompt_logprobs is not None and (feed_prompt := getattr(self.encoder, "feed_prompt", None)):
            events.extend(feed_prompt(choice, step.prompt_logprobs))
        items = reader.feed(step.token_ids, step.logprobs)
        if reader.is_over:
            self.sequences[choice].cancel()
            items = [*items, *reader.end("stop")]
        elif step.finish is not None:
            items = [*items, *reader.end(step.finish, step.stop_token)]
        if items and isinstance(last := items[-1], AnswerEnded):
            self._ends[choice] = last
        events.extend(self.encoder.feed(choice, items, step.token_ids))

    def usage(self) -> Usage:
        """Returns what has been used so far: prompts count once for all their choices."""
        prompts = {id(prompt): (len(prompt), self._num_cached[i]) for i, prompt in enumerate(self.prompts)}
        return Usage(
            prompt_tokens=sum(length for length, _ in prompts.values()),
            completion_tokens=sum(end.completion_tokens for end in self._ends.values()),
            reasoning_tokens=sum(end.reasoning_tokens for end in self._ends.values()),
            cached_tokens=sum(cached for _, cached in prompts.values()),
        )

    def _report_repairs(self) -> None:
        for reader in self._readers:
            if reader.repairs:
                self._count_repairs(reader.repairs.items())
        if repairs := getattr(self.encoder, "repairs", None):
            self._count_repairs(repairs.items())

    def _overflow(self) -> None:
        error = SlowClientError(
            f"the client has left more than {self._max_unread_tokens} tokens of its stream unread, "
            "and generation was stopped"
        )
        logger.error("a stream was ended: %s", error)
        self.inbox.fail(error)

    @property
    def num_lost_engines(self) -> int:
        """How often a sequence of this answer has lost its engine, and gone on in another."""
        return sum(sequence.num_lost for sequence in self.sequences)

    def close(self) -> None:
        """Ends the sequences that have not ended, in their engines."""
        for sequence in self.sequences:
            sequence.cancel()


def _check_leaves_tokens(sampling: Sampling, param: str) -> None:
    """Raises `BadRequestError` for what may forbid all tokens that a grammar allows.

    vLLM then samples any token, which the grammar does not take, and the answer never ends.
    """
    for name in ("allowed_token_ids", "bad_words", "min_tokens"):
        if getattr(sampling, name):
            raise BadRequestError(f"{name} cannot be used together with {param}", name)
    if any(token >= FIRST_SPECIAL for token in sampling.stop_token_ids or ()):
        raise BadRequestError(
            f"stop_token_ids cannot name special tokens together with {param}", "stop_token_ids"
        )
