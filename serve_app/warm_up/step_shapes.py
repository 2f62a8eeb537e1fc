"""Lengths of a step that are compiled apart: the kernels of gpt-oss's experts in vLLM 0.32, on Hopper.

Steps above the largest CUDA graph are launched kernel by kernel. Triton compiles a kernel anew for each value
of its constants, and for integers that are 1, multiples of 16, or neither. In vLLM's `triton_kernels`:

- Two kernels of the routing have the tokens, rounded up to 32, as a constant: `routing_kernels` makes an
  integer of it.
- The routing and the two matrix products then have integers and a block size that follow from the tokens:
  some 30 versions for all lengths.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

# Rows of the bitmatrix go by 32.
ROWS = 32
# gpt-oss-20b has 32 experts and gpt-oss-120b has 128; a token goes to 4 of them.
EXPERTS, EXPERTS_PER_TOKEN = (32, 128), 4


def prefill_lengths(above: int, most: int) -> list[int]:
    """Returns lengths above `above`, up to `most`, that together need all versions, the shortest that do."""
    known: set[Hashable] = set()
    found = []
    for length in range(above + 1, most + 1):
        if new := {kind for experts in EXPERTS for kind in kinds(length, experts)} - known:
            known |= new
            found.append(length)
    return found


def kinds(length: int, experts: int) -> Iterator[Hashable]:
    """Yields the versions of all kernels of the experts that a step takes."""
    pairs = length * EXPERTS_PER_TOKEN
    partial_sums = 4 * -(-length // 128)
    yield "_topk_forward", _kind(length)
    yield "_sum_bitmatrix_rows", _kind(length), _kind(partial_sums)
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
