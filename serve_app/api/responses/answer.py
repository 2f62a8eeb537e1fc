"""The Responses API's answer: events of items to events by OpenAI's names. The body is what the last holds.

The order of events is one that the accumulators of OpenAI's clients accept: each item is added, its part is
added, grows and is done, the item is done; one item after the other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from serve_app.answers.items import (
    AnswerEnded,
    Delta,
    Finish,
    ItemEnded,
    ItemEvent,
    TokenLogprob,
)
from serve_app.answers.usage import Usage
from serve_app.api.event_lines import on_one_line
from serve_app.api.exchange import Start
from serve_app.api.responses.events import (
    Completed,
    Created,
    Error,
    Failed,
    Incomplete,
    IncompleteDetails,
    InProgress,
    InputTokensDetails,
    Item,
    ItemStatus,
    Logprob,
    OutputTokensDetails,
    Response,
    ResponseError,
    ResponseEvent,
    ResponseUsage,
    TopLogprob,
)
from serve_app.api.responses.items import ItemOptions, OpenItem, open_item
from serve_app.errors import ServiceError, body_of

# OpenAI's own streams end without it. Open Responses asks for it, OpenAI's clients stop at it, and Codex
# passes over it.
DONE = b"data: [DONE]\n\n"
_ENCODER = msgspec.json.Encoder()
_HEADS = {kind: f"event: {kind.__struct_config__.tag}\ndata: ".encode() for kind in get_args(ResponseEvent)}


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What a request says of its answer."""

    template: Response
    """The response with all that the request has set."""
    items: ItemOptions = field(default_factory=ItemOptions)
    num_top_logprobs: int = 0


class ResponsesEncoder:
    """Makes the events of one response. See `Encoder`."""

    def __init__(self, options: AnswerOptions, start: Start, clock: Callable[[], float] = time.time) -> None:
        self._options, self._start, self._clock = options, start, clock
        # Ids of items are made of it. They differ between the responses of a conversation.
        self._key = uuid.uuid4().hex
        template = options.template
        self._response = msgspec.structs.replace(
            template, id=template.id or f"resp_{self._key}", created_at=start.created, model=start.model
        )
        self._number = 0
        self._items: list[Item] = []
        self._open: OpenItem | None = None
        self._finish = Finish.STOP

    def begin(self) -> Iterable[ResponseEvent]:
        """Returns created and in_progress."""
        self._number = 2
        return [Created(0, self._response), InProgress(1, self._response)]

    def feed(
        self, choice: int, events: Sequence[ItemEvent], token_ids: Sequence[int]
    ) -> Iterable[ResponseEvent]:
        """Returns the events of items; `choice` is 0."""
        made: list[ResponseEvent] = []
        for event in events:
            if isinstance(event, Delta):
                if self._open is not None and (delta := self._open.grow(self._number, event)) is not None:
                    self._number += 1
                    made.append(delta)
            elif isinstance(event, AnswerEnded):
                self._finish = event.finish
            elif isinstance(event, ItemEnded):
                self._close("completed" if event.is_complete else "incomplete", made)
            else:
                self._open = open_item(
                    event, self._key, len(self._items), self._options.items, self._logprobs
                )
                if self._open is not None:
                    self._extend(made, self._open.begin(self._number))
        return made

    def _close(self, status: ItemStatus, made: list[ResponseEvent]) -> None:
        if self._open is None:
            return
        item = self._open.item(status)
        self._extend(made, self._open.end(self._number, item))
        self._items.append(item)
        self._open = None

    def _extend(self, made: list[ResponseEvent], events: Iterable[ResponseEvent]) -> None:
        before = len(made)
        made.extend(events)
        self._number += len(made) - before

    def end(self, usage: Usage) -> Iterable[ResponseEvent]:
        """Returns completed or incomplete, with the whole response."""
        used = ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(usage.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(usage.reasoning_tokens),
            total_tokens=usage.total_tokens,
        )
        number, self._number = self._number, self._number + 1
        if self._finish is Finish.LENGTH:
            details = IncompleteDetails("max_output_tokens")
            return [Incomplete(number, self._now("incomplete", usage=used, incomplete_details=details))]
        completed_at = max(int(self._clock()), self._start.created)
        return [Completed(number, self._now("completed", usage=used, completed_at=completed_at))]

    def _now(self, status: str, **changes: Any) -> Response:
        return msgspec.structs.replace(self._response, status=status, output=self._items, **changes)

    def to_bytes(self, event: ResponseEvent) -> bytes:
        """Returns a server-sent event with its name."""
        data = _ENCODER.encode(event)
        return b"%b%b\n\n" % (_HEADS[type(event)], data if data.isascii() else on_one_line(data))

    def last_bytes(self) -> bytes:
        """Returns `data: [DONE]`."""
        return DONE

    def error_bytes(self, error: ServiceError) -> bytes:
        """Returns an error, then failed.

        OpenAI's clients raise at the first, with its message. Codex looks at the second only.
        """
        shown: Any = body_of(error)["error"]
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        if self._open is not None:
            self._items.append(self._open.item("incomplete"))
            self._open = None
        failed = self._now("failed", error=ResponseError(code, shown["message"]))
        number = self._number
        return b"".join(
            (
                self.to_bytes(Error(number, shown["code"] or code, shown["message"], shown["param"], shown)),
                self.to_bytes(Failed(number + 1, failed)),
                DONE,
            )
        )

    def fold(self, events: Iterable[ResponseEvent]) -> dict[str, Any]:
        """Returns the response of the last event."""
        last: ResponseEvent | None = None
        for event in events:
            last = event
        assert isinstance(last, Completed | Incomplete), "an answer ends with one of these"
        body: dict[str, Any] = msgspec.to_builtins(last.response)
        return body

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> list[Logprob]:
        return [
            Logprob(
                *self._token(token.token_id, token.logprob),
                [
                    TopLogprob(*self._token(*alternative))
                    for alternative in token.alternatives[: self._options.num_top_logprobs]
                ],
            )
            for token in tokens
        ]

    def _token(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        raw = self._start.detokenize(token_id)
        return raw.decode(errors="replace"), logprob, list(raw)
