"""Packing conversations into rows of fixed length, and processes that do so while the accelerator works."""

import multiprocessing
import queue
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import numpy.typing

from serve_app.demo.conversations import Example, example

Array = numpy.typing.NDArray[Any]

PADDING_DOCUMENT = -1


@dataclass(frozen=True)
class Batch:
    """Arrays [rows, length].

    Attributes:
        tokens: indices of used rows; the number of used rows means "any other token".
        positions: count from zero in every document.
        document: which document of its row a token belongs to; -1 is padding.
        weight: 1.0 where the token is one that the model is to choose.
        kind: index of the document's kind, for scores.
    """

    tokens: Array
    positions: Array
    document: Array
    weight: Array
    kind: Array


KINDS = (
    "chat", "write", "unknown", "copy", "arithmetic", "count", "form", "json", "memory", "call", "result",
    "forced", "raw",
)  # fmt: skip


def pack(stream: Iterator[Example], index: Array, num_rows: int, length: int) -> Batch:
    """The next batch. Rows are filled greedily; a conversation longer than a row is skipped.

    Args:
        index: for every token id the index of its row.
    """
    shape = (num_rows, length)
    tokens, positions = numpy.zeros(shape, numpy.int32), numpy.zeros(shape, numpy.int32)
    document = numpy.full(shape, PADDING_DOCUMENT, numpy.int32)
    weight, kind = numpy.zeros(shape, numpy.float32), numpy.zeros(shape, numpy.int32)
    row, at, number, misses = 0, 0, 0, 0
    free = list(range(num_rows))
    filled = [0] * num_rows
    while free and misses < 40:
        drawn = next(stream)
        ids = index[numpy.asarray(drawn.prompt + drawn.reply)]
        if len(ids) > length:
            continue
        row = next((r for r in free if filled[r] + len(ids) <= length), -1)
        if row < 0:
            misses += 1
            continue
        at = filled[row]
        span = slice(at, at + len(ids))
        tokens[row, span] = ids
        positions[row, span] = numpy.arange(len(ids))
        document[row, span] = number
        reply = slice(at + len(drawn.prompt), at + len(ids))
        weight[row, reply] = numpy.asarray(drawn.chosen) & (tokens[row, reply] < index.max())
        kind[row, span] = KINDS.index(drawn.kind)
        number += 1
        filled[row] += len(ids)
        if length - filled[row] < 48:
            free.remove(row)
    return Batch(tokens, positions, document, weight, kind)


def row_index(rows: list[int], vocab_size: int) -> Array:
    """For every token id the index of its row; len(rows) for unused ones."""
    index = numpy.full(vocab_size, len(rows), numpy.int32)
    index[numpy.asarray(rows)] = numpy.arange(len(rows))
    return index


def examples(seed: int, first: int, step: int, long: float) -> Iterator[Example]:
    """Every `step`th conversation of a seed, for ever."""
    number = first
    while True:
        yield example(seed, number, long)
        number += step


def _work(outbox: Any, seed: int, first: int, step: int, index: Array, plan: Any) -> None:
    streams: dict[float, Iterator[Example]] = {}
    while True:
        num_rows, length, long = plan.value
        stream = streams.setdefault(long, examples(seed, first, step, long))
        outbox.put(pack(stream, index, num_rows, length))


class Feed:
    """Batches from `num_workers` processes. Iterate, and close.

    `plan` is (rows, length, share of long prompts) and may change while running; batches of an old plan are
    dropped.
    """

    def __init__(self, seed: int, index: Array, num_workers: int, plan: tuple[int, int, float]) -> None:
        context = multiprocessing.get_context("fork")
        self._manager = context.Manager()
        self._plan = self._manager.Value("p", plan)
        self._queue: Any = context.Queue(maxsize=2 * num_workers)
        self._workers = [
            context.Process(
                target=_work, args=(self._queue, seed, i, num_workers, index, self._plan), daemon=True
            )
            for i in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def change(self, plan: tuple[int, int, float]) -> None:
        """Ask for batches of another size."""
        self._plan.value = plan

    def __next__(self) -> Batch:
        shape = self._plan.value[:2]
        while True:
            try:
                batch: Batch = self._queue.get(timeout=60)
            except queue.Empty:
                if not any(worker.is_alive() for worker in self._workers):
                    raise RuntimeError("every process that makes batches has ended") from None
                continue
            if batch.tokens.shape == shape:
                return batch

    def __iter__(self) -> "Feed":
        return self

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
        self._manager.shutdown()
