"""The events of an answer to those of Completions, and the body as their fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from serve_app.answers.items import AnswerEnded, Delta, Finish, ItemEvent, TokenLogprob
from serve_app.answers.usage import Usage
from serve_app.api.completions.logprobs import LogprobReader, prompt_logprobs
from serve_app.api.completions.response import (
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionUsage,
    Logprobs,
)
from serve_app.api.event_lines import on_one_line
from serve_app.api.exchange import Start
from serve_app.errors import ServiceError, body_of

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the request wants to see."""

    prompts: tuple[Sequence[int], ...]
    num_choices: int = 1
    """Of each prompt."""
    echoes: bool = False
    """Whether the text begins with the prompt."""
    generates: bool = True
    """False shows nothing of the answer: `max_tokens` is 0, and an engine generates at least one token."""
    shows_logprobs: bool = False
    num_alternatives: int | None = None
    """At each token; None: all that there are."""
    shows_prompt_logprobs: bool = False
    shows_token_ids: bool = False
    names_tokens_by_id: bool = False
    skips_special_tokens: bool = True
    includes_usage: bool = False
    includes_all_usage: bool = False
    """In each chunk, that of its choice."""
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """An event: more of a choice, or, without one, the usage of all."""

    choice: ChunkChoice | None
    usage: CompletionUsage | None = None


class CompletionEncoder:
    """Makes chunks of the texts of answers, and the body of the chunks."""

    def __init__(self, shape: Shape, start: Start, answer_id: str) -> None:
        self._shape = shape
        self._head: dict[str, Any] = {
            "id": answer_id,
            "object": "text_completion",
            "created": start.created,
            "model": start.model,
        }
        # Each chunk begins with the same.
        self._prefix = b"data: " + msgspec.json.encode(self._head)[:-1] + b',"choices":['
        self._encode = msgspec.json.Encoder().encode
        prompts = (prompt for prompt in shape.prompts for _ in range(shape.num_choices))
        self._choices = [
            _Progress(index, prompt, shape, start.detokenize) for index, prompt in enumerate(prompts)
        ]

    def begin(self) -> Iterable[Chunk]:
        """Returns nothing: no event opens a stream of this API."""
        return ()

    def feed_prompt(self, choice: int, logprobs: Sequence[TokenLogprob | None]) -> Iterable[Chunk]:
        """Takes the log probabilities of a choice's prompt, before anything else of that choice."""
        self._choices[choice].prompt_logprobs = logprobs
        return ()

    def feed(self, choice: int, events: Sequence[ItemEvent], token_ids: Sequence[int]) -> Iterable[Chunk]:
        """Returns one chunk with all that has come of a choice, or none if there is nothing to show."""
        progress = self._choices[choice]
        if (more := progress.feed(events, token_ids)) is None:
            return ()
        return (Chunk(more, progress.usage() if self._shape.includes_all_usage else None),)

    def end(self, usage: Usage) -> Iterable[Chunk]:
        """Returns the usage, which is part of the body whether or not the stream shows it."""
        body = CompletionUsage.of(usage if self._shape.generates else replace(usage, completion_tokens=0))
        return (Chunk(None, body),)

    def to_bytes(self, event: Chunk) -> bytes:
        """Returns a chunk as it is streamed: nothing for the usage, if the client does not want it."""
        if event.choice is None:
            if not self._shape.includes_usage:
                return b""
            return self._prefix + b'],"usage":' + self._encode(event.usage) + b"}\n\n"
        usage = b',"usage":' + self._encode(event.usage) if event.usage else b""
        return self._prefix + on_one_line(self._encode(event.choice)) + b"]" + usage + b"}\n\n"

    def last_bytes(self) -> bytes:
        """Returns OpenAI's mark of the end."""
        return DONE

    def error_bytes(self, error: ServiceError) -> bytes:
        """Returns the error in place of a chunk, and the mark of the end."""
        return b"data: " + on_one_line(self._encode(body_of(error))) + b"\n\n" + DONE

    def fold(self, events: Iterable[Chunk]) -> dict[str, Any]:
        """Returns the body that is not streamed."""
        parts: list[list[ChunkChoice]] = [[] for _ in self._choices]
        usage = CompletionUsage(0, 0, 0)
        for event in events:
            if event.choice is not None:
                parts[event.choice.index].append(event.choice)
            elif event.usage is not None:
                usage = event.usage
        body = Completion(
            **self._head,
            choices=[self._folded(index, some) for index, some in enumerate(parts)],
            service_tier=self._shape.service_tier,
            usage=usage,
        )
        return msgspec.structs.asdict(body)

    def _folded(self, index: int, parts: Sequence[ChunkChoice]) -> CompletionChoice:
        logprobs = Logprobs() if self._shape.shows_logprobs else None
        token_ids: list[int] | None = [] if self._shape.shows_token_ids else None
        for part in parts:
            if logprobs is not None and part.logprobs is not None:
                logprobs.extend(part.logprobs)
            if token_ids is not None:
                token_ids += part.token_ids or ()
        first, last = (parts[0], parts[-1]) if parts else (ChunkChoice(index=index),) * 2
        return CompletionChoice(
            index=index,
            text="".join(part.text for part in parts),
            logprobs=logprobs,
            finish_reason=last.finish_reason,
            stop_reason=last.stop_reason,
            token_ids=token_ids,
            prompt_logprobs=first.prompt_logprobs or None,
            prompt_token_ids=first.prompt_token_ids,
        )


class _Progress:
    """One choice, as far as it has come."""

    def __init__(
        self, index: int, prompt: Sequence[int], shape: Shape, detokenize: Callable[[int], bytes]
    ) -> None:
        self._index, self._prompt, self._shape = index, prompt, shape
        self._detokenize = detokenize
        self._reader = LogprobReader(
            detokenize,
            shape.num_alternatives,
            names_tokens_by_id=shape.names_tokens_by_id,
            skips_special_tokens=shape.skips_special_tokens,
        )
        self._has_begun = False
        self._num_tokens = 0
        self.prompt_logprobs: Sequence[TokenLogprob | None] | None = None

    def feed(self, events: Sequence[ItemEvent], token_ids: Sequence[int]) -> ChunkChoice | None:
        """Returns what is new, or None if that is nothing."""
        shape, more = self._shape, ChunkChoice(index=self._index)
        logprobs = Logprobs() if shape.shows_logprobs else None
        if not self._has_begun:
            self._begin(more, logprobs)
        texts = [more.text]
        for event in events:
            if isinstance(event, AnswerEnded):
                # The engine may have been ahead of a stop string.
                token_ids = token_ids[: max(0, event.completion_tokens - self._num_tokens)]
                is_cut = event.finish is Finish.LENGTH or not shape.generates
                more.finish_reason = "length" if is_cut else "stop"
                if not is_cut:
                    more.stop_reason = event.stop_token if event.stop_string is None else event.stop_string
            elif isinstance(event, Delta) and shape.generates:
                texts.append(event.text)
                if logprobs is not None:
                    for token in event.logprobs:
                        self._reader.read(token.token_id, token, logprobs)
        more.text = "".join(texts)
        if not shape.generates:
            token_ids = ()
        self._num_tokens += len(token_ids)
        if shape.shows_token_ids:
            more.token_ids = token_ids
        if logprobs is not None and logprobs.tokens:
            more.logprobs = logprobs
        is_news = more.text or more.token_ids or more.logprobs or more.finish_reason
        if not is_news:
            return None
        self._has_begun = True
        return more

    def _begin(self, more: ChunkChoice, logprobs: Logprobs | None) -> None:
        """Adds what the first chunk says of the prompt."""
        shape, prompt, known = self._shape, self._prompt, self.prompt_logprobs
        if shape.shows_token_ids:
            more.prompt_token_ids = prompt
        if shape.shows_prompt_logprobs and known is not None:
            more.prompt_logprobs = prompt_logprobs(prompt, known, self._detokenize)
        if shape.echoes:
            more.text = b"".join(map(self._detokenize, prompt)).decode(errors="replace")
            if logprobs is not None:
                self._reader.read_prompt(
                    prompt, known if known is not None else [None] * len(prompt), logprobs
                )

    def usage(self) -> CompletionUsage:
        """Returns the usage of this choice so far."""
        num_prompt = len(self._prompt)
        return CompletionUsage(num_prompt, num_prompt + self._num_tokens, self._num_tokens)
