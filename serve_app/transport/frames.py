"""Step frames: what an engine replica produced in one engine step for the sequences of one ingress.

A frame is a multipart message: a `FrameHeader`, then the outputs as the engine encodes them. Several frames
may be on their way for a sequence, over a connection that can break, so every output carries its position in
the answer, as TCP's sequence numbers do: `ReceivedTokens` finds what is lost, late, repeated or out of order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from serve_app.errors import TokensLostError

Output = TypeVar("Output")


class FrameHeader(msgspec.Struct, array_like=True, gc=False):
    """Says to which answers the outputs of a frame belong; both lists are as long as the list of outputs."""

    sequences: list[int]
    """The ingress's numbers of the sequences."""
    positions: list[int]
    """How many tokens of its answer were sent before each output."""


class Frame(Generic[Output]):
    """A frame that is being put together: what could not be sent yet.

    Outputs of the same sequence are merged where `merge` can (it returns None where it cannot), so that a
    frame that waits grows with the number of sequences and tokens, and not with the number of steps.
    """

    def __init__(self, merge: Callable[[Output, Output], Output | None]) -> None:
        self._merge = merge
        # Of each sequence: the index of its last output, and the position after it.
        self._last: dict[int, tuple[int, int]] = {}
        self.header = FrameHeader([], [])
        self.outputs: list[Output] = []
        self.num_tokens = 0

    def __bool__(self) -> bool:
        return bool(self.outputs)

    def add(self, sequence: int, position: int, output: Output, num_tokens: int) -> None:
        """Adds an output; it is merged only with one that it continues."""
        self.num_tokens += num_tokens
        index, end = self._last.get(sequence, (-1, -1))
        if end == position and (merged := self._merge(self.outputs[index], output)) is not None:
            self.outputs[index] = merged
            self._last[sequence] = index, position + num_tokens
            return
        self._last[sequence] = len(self.outputs), position + num_tokens
        self.header.sequences.append(sequence)
        self.header.positions.append(position)
        self.outputs.append(output)


class ReceivedTokens:
    """How much of a sequence's answer has arrived in its ingress, from one engine."""

    __slots__ = ("num_tokens",)

    def __init__(self, num_tokens: int = 0) -> None:
        """`num_tokens` had come of other engines, before this one went on."""
        self.num_tokens = num_tokens

    def accept(self, position: int, num_tokens: int) -> bool:
        """Returns whether an output of `num_tokens` at `position` is the next one; False: it is here already.

        Raises `TokensLostError` when something before it is missing.
        """
        if position == self.num_tokens:
            self.num_tokens += num_tokens
            return True
        if position + num_tokens <= self.num_tokens:
            return False
        raise TokensLostError(
            f"token {self.num_tokens} of the answer was lost between its engine replica and the ingress "
            f"(token {position} came next); the request can be sent again"
        )


def encode_header(header: FrameHeader) -> bytes:
    """Returns the first part of a frame."""
    return _ENCODER.encode(header)


def decode_header(part: Any) -> FrameHeader:
    """Returns what `encode_header` was given. Raises `msgspec.MsgspecError` for anything else."""
    header = _DECODER.decode(part)
    if len(header.sequences) != len(header.positions):
        raise msgspec.ValidationError("a frame's lists differ in length")
    return header


Parts = Sequence[Any]
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(FrameHeader)
