"""The items of a Responses answer while they grow: what each of them streams at its begin, growth and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from serve_app.answers.items import CallBegan, Delta, ReasoningBegan, TextBegan, TokenLogprob
from serve_app.api.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    FunctionCall,
    Item,
    ItemAdded,
    ItemDone,
    ItemStatus,
    Logprob,
    Message,
    OutputText,
    PartAdded,
    PartDone,
    Phase,
    ReasoningDelta,
    ReasoningDone,
    ReasoningItem,
    ReasoningText,
    ResponseEvent,
    TextDelta,
    TextDone,
)
from serve_app.api.sealing import Sealer


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """What a request says of the items of its answer."""

    namespaced: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Namespace and name of the functions that have a namespace, by the name in the prompt."""
    sealer: Sealer | None = None
    """Seals reasoning, where the request asks for that."""
    has_reasoning: bool = True


class OpenItem(Protocol):
    """An item that grows."""

    def begin(self, number: int) -> Iterator[ResponseEvent]:
        """Yields the events that open it; `number` is the first one's."""

    def grow(self, number: int, delta: Delta) -> ResponseEvent | None:
        """Takes more text, and returns its event, if there is one."""

    def item(self, status: ItemStatus) -> Item:
        """Returns the item as it is now."""

    def end(self, number: int, item: Any) -> Iterator[ResponseEvent]:
        """Yields the events that close it as `item`."""


def open_item(
    event: ReasoningBegan | TextBegan | CallBegan,
    key: str,
    index: int,
    options: ItemOptions,
    read_logprobs: Callable[[Sequence[TokenLogprob]], list[Logprob]],
) -> OpenItem | None:
    """Returns the item that begins, or None for one that is not shown.

    `key` is the answer's part of the ids, `index` the item's place in it.
    """
    suffix = f"{key}{index:02x}"
    match event:
        case TextBegan():
            phase: Phase = "commentary" if event.channel == "commentary" else "final_answer"
            return _OpenMessage(f"msg_{suffix}", index, phase, read_logprobs)
        case CallBegan():
            namespace, name = options.namespaced.get(event.name, (None, event.name))
            return _OpenCall(f"fc_{suffix}", index, f"call_{suffix}", name, namespace)
        case ReasoningBegan():
            return _OpenReasoning(f"rs_{suffix}", index, options.sealer) if options.has_reasoning else None


class _OpenMessage:
    __slots__ = ("_id", "_index", "_logprobs", "_phase", "_read_logprobs", "_texts")

    def __init__(
        self,
        item_id: str,
        index: int,
        phase: Phase,
        read_logprobs: Callable[[Sequence[TokenLogprob]], list[Logprob]],
    ) -> None:
        self._id, self._index, self._phase = item_id, index, phase
        self._read_logprobs = read_logprobs
        self._texts: list[str] = []
        self._logprobs: list[Logprob] = []

    def begin(self, number: int) -> Iterator[ResponseEvent]:
        item = Message(id=self._id, status="in_progress", phase=self._phase, content=[])
        yield ItemAdded(number, self._index, item)
        yield PartAdded(number + 1, self._id, self._index, 0, OutputText(""))

    def grow(self, number: int, delta: Delta) -> ResponseEvent | None:
        self._texts.append(delta.text)
        if not delta.logprobs:
            return TextDelta(number, self._id, self._index, 0, delta.text)
        logprobs = self._read_logprobs(delta.logprobs)
        self._logprobs += logprobs
        return TextDelta(number, self._id, self._index, 0, delta.text, logprobs)

    def item(self, status: ItemStatus) -> Message:
        part = OutputText("".join(self._texts), logprobs=self._logprobs)
        return Message(id=self._id, status=status, phase=self._phase, content=[part])

    def end(self, number: int, item: Message) -> Iterator[ResponseEvent]:
        [part] = item.content
        yield TextDone(number, self._id, self._index, 0, part.text, part.logprobs)
        yield PartDone(number + 1, self._id, self._index, 0, part)
        yield ItemDone(number + 2, self._index, item)


class _OpenReasoning:
    __slots__ = ("_id", "_index", "_sealer", "_texts")

    def __init__(self, item_id: str, index: int, sealer: Sealer | None) -> None:
        self._id, self._index, self._sealer = item_id, index, sealer
        self._texts: list[str] = []

    def begin(self, number: int) -> Iterator[ResponseEvent]:
        item = ReasoningItem(id=self._id, status="in_progress", content=[])
        yield ItemAdded(number, self._index, item)
        yield PartAdded(number + 1, self._id, self._index, 0, ReasoningText(""))

    def grow(self, number: int, delta: Delta) -> ResponseEvent | None:
        if not delta.text:
            return None
        self._texts.append(delta.text)
        return ReasoningDelta(number, self._id, self._index, 0, delta.text)

    def item(self, status: ItemStatus) -> ReasoningItem:
        text = "".join(self._texts)
        return ReasoningItem(
            id=self._id,
            status=status,
            content=[ReasoningText(text)],
            encrypted_content=self._sealer.seal(text) if self._sealer else msgspec.UNSET,
        )

    def end(self, number: int, item: ReasoningItem) -> Iterator[ResponseEvent]:
        [part] = item.content
        yield ReasoningDone(number, self._id, self._index, 0, part.text)
        yield PartDone(number + 1, self._id, self._index, 0, part)
        yield ItemDone(number + 2, self._index, item)


class _OpenCall:
    __slots__ = ("_call_id", "_id", "_index", "_name", "_namespace", "_texts")

    def __init__(self, item_id: str, index: int, call_id: str, name: str, namespace: str | None) -> None:
        self._id, self._index, self._call_id = item_id, index, call_id
        self._name, self._namespace = name, namespace
        self._texts: list[str] = []

    def begin(self, number: int) -> Iterator[ResponseEvent]:
        yield ItemAdded(number, self._index, self.item("in_progress"))

    def grow(self, number: int, delta: Delta) -> ResponseEvent | None:
        if not delta.text:
            return None
        self._texts.append(delta.text)
        return ArgumentsDelta(number, self._id, self._index, delta.text)

    def item(self, status: ItemStatus) -> FunctionCall:
        return FunctionCall(
            id=self._id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            namespace=self._namespace or msgspec.UNSET,
            arguments="".join(self._texts),
        )

    def end(self, number: int, item: FunctionCall) -> Iterator[ResponseEvent]:
        yield ArgumentsDone(number, self._id, self._index, item.name, item.arguments)
        yield ItemDone(number + 1, self._index, item)
