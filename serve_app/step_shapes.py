"""Lengths of a step that are compiled apart: the kernels of gpt-oss's experts in vLLM 0.29, on Hopper.

Steps above the largest CUDA graph are launched kernel by kernel. Triton compiles a kernel anew for each value
of its constants, and for integers that are 1, multiples of 16, or neither. In vLLM's `triton_kernels`:

- `_topk_forward` and `_sum_bitmatrix_rows` have the tokens, rounded up to 32, as a constant (the stride of
  the bitmatrix), and the tokens themselves as an integer: two versions of each for every 32 tokens.
- The rest of the routing, and the two matrix products, have integers and a block size that follow from the
  tokens: some 30 versions for all lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

# Rows of the bitmatrix go by 32.
ROWS = 32
# gpt-oss-20b has 32 experts and gpt-oss-120b has 128; a token goes to 4 of them.
EXPERTS, EXPERTS_PER_TOKEN = (32, 128), 4


def routing_lengths(above: int, most: int) -> list[int]:
    """Returns lengths above `above`, up to `most`, that together need all versions of the routing."""
    found: list[int] = []
    for padded in range(ROWS * (above // ROWS + 1), most + ROWS, ROWS):
        lengths = range(min(padded, most), max(padded - ROWS, above), -1)
        found += _needed(lengths, lambda length: [_kind(length)])
    return sorted(found)


def prefill_lengths(above: int, most: int) -> list[int]:
    """Returns lengths that together need all versions of the other kernels, the shortest that do."""
    lengths = range(above + 1, most + 1)
    return sorted(
        _needed(lengths, lambda n: (kind for experts in EXPERTS for kind in other_kinds(n, experts)))
    )


def _needed(lengths: Iterable[int], kinds: Callable[[int], Iterable[Hashable]]) -> Iterator[int]:
    known: set[Hashable] = set()
    for length in lengths:
        if new := set(kinds(length)) - known:
            known |= new
            yield length


def routing_kind(length: int) -> Hashable:
    """Returns what tells `_topk_forward` and `_sum_bitmatrix_rows` apart."""
    return -(-length // ROWS), _kind(length)


def other_kinds(length: int, experts: int) -> Iterator[Hashable]:
    """Yields the versions of all other kernels of the experts that a step takes."""
    pairs = length * EXPERTS_PER_TOKEN
    partial_sums = 4 * -(-length // 128)
    yield "_combined_routing_memset", _kind(2 * pairs), _kind(-(-length // ROWS)), _kind(partial_sums)
    yield "_combined_routing_compute", _kind(length), _kind(partial_sums)
    # `make_default_opt_flags_nvidia`, and `RoutingData.n_blocks`.
    block = max(16, min(1 << (max(pairs // experts, 1) - 1).bit_length(), 128))
    blocks = pairs if pairs <= experts else -(-(pairs - experts + 1) // block) + experts - 1
    yield "_matmul_ogs, gathering", experts, block, _kind(length), _kind(blocks)
    yield "_matmul_ogs, scattering", experts, block, _kind(pairs), _kind(blocks)


def _kind(value: int) -> str:
    if value == 1:
        return "1"
    return "D" if value % 16 == 0 else ""
