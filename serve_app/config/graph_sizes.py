"""What follows from `max_concurrent_requests`: tokens in a step, and the CUDA graphs that vLLM captures.

CUDA graphs are captured for numbers of *tokens*. A decoding request takes 1 token, and one more for each
draft token. vLLM rounds a size that is no multiple of that up, and drops it where it is then above the
largest (`adjust_cudagraph_sizes_for_spec_decode`; `_init_candidates` in model runner V2): the largest decode
batches then run without any graph. Measured on an H100 (gpt-oss-20b, 64 concurrent, k = 3): 77 to 84 ms
between tokens with sizes up to 64, 12.6 ms with sizes up to 256 = 64 x 4.

Left alone, vLLM captures 83 sizes for gpt-oss, up to 1,024 tokens whatever the batch: too few for 512
requests with k = 3, and for 64 requests 63 more than their decode batches need, at a cost in start-up time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

# A batch is padded to the next size. Every number of requests up to 8 has its own; above, four sizes for each
# doubling, as memory allocators space theirs (jemalloc's size classes): no batch is padded by more than a
# quarter of itself, and 1,024 requests need 36 sizes. vLLM's even spacing pads 9 requests to 16 and needs 87.
DENSE_UP_TO = 8
SIZES_PER_DOUBLING = 4


@dataclass(frozen=True)
class DecodeShape:
    """The largest decode batch of an engine. `str()` is its arithmetic, for messages."""

    max_concurrent_requests: int
    num_draft_tokens: int
    """Of each request in each step; 0 without a speculator."""

    @property
    def tokens_per_request(self) -> int:
        """Tokens of one decoding request in one step: the one it has, and its drafts."""
        return 1 + self.num_draft_tokens

    @property
    def max_decode_tokens(self) -> int:
        """Tokens of the largest decode batch, which is the largest capture size."""
        return self.max_concurrent_requests * self.tokens_per_request

    def __str__(self) -> str:
        return (
            f"{self.max_concurrent_requests} requests x (1 + {self.num_draft_tokens}) tokens "
            f"= {self.max_decode_tokens} tokens"
        )


def batch_sizes(max_concurrent_requests: int) -> list[int]:
    """Returns the numbers of requests that have a graph of their own, ascending, up to the maximum.

    A batch of n requests runs in the next of these, which is at most 1.25 n. There are at most 8 of them, and
    4 for each doubling above 8 that has begun: 8 + 4 * ceil(log2(maximum / 8)).
    """
    counts = list(range(1, DENSE_UP_TO + 1))
    while counts[-1] < max_concurrent_requests:
        step = counts[-1] // SIZES_PER_DOUBLING
        counts += [counts[-1] + step * number for number in range(1, SIZES_PER_DOUBLING + 1)]
    return [count for count in counts if count < max_concurrent_requests] + [max_concurrent_requests]


def capture_sizes(shape: DecodeShape) -> list[int]:
    """Returns the CUDA-graph sizes to capture, in tokens, ascending.

    They are the `batch_sizes` times the tokens that a request takes, so vLLM rounds and drops none as long as
    `max_num_batched_tokens` is not below the last one, which the config sees to.

    With two drafts and more there is one size besides: the maximum itself. After its first draft a speculator
    takes one token a request, in graphs of these same sizes, and vLLM drops those above the maximum number of
    requests (`init_cudagraph_manager` of the autoregressive speculator). Of 50 requests with k = 3, the last
    multiple of 4 that is left is 48. For the model itself, vLLM rounds that size up like any other.
    """
    sizes = {count * shape.tokens_per_request for count in batch_sizes(shape.max_concurrent_requests)}
    if shape.num_draft_tokens > 1:
        sizes.add(shape.max_concurrent_requests)
    return sorted(sizes)


def describe_coverage(shape: DecodeShape, sizes: Sequence[int], largest: int | None = None) -> str:
    """Returns what decode batches the capture sizes `sizes` hold, for messages. `largest` caps them."""
    tokens = shape.tokens_per_request
    usable = sorted(sizes)[: None if largest is None else bisect_right(sorted(sizes), largest)]
    top = usable[-1] if usable else 0
    # Sizes are rounded up to whole requests, and dropped where that is above the largest.
    held = max((-(-size // tokens) for size in usable if -(-size // tokens) * tokens <= top), default=0)
    return (
        f"{shape}: sizes up to {top} tokens hold "
        f"batches of {min(held, shape.max_concurrent_requests)} requests"
    )
