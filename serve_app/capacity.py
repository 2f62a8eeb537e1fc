"""What follows from `max_concurrent_requests`: tokens in a step, and the CUDA graphs that vLLM captures.

CUDA graphs are captured for numbers of *tokens*. A decoding request takes 1 token, and one more for each
draft token. vLLM rounds a size that is no multiple of that up, and drops it where it is then above the
largest (`adjust_cudagraph_sizes_for_spec_decode`; `_init_candidates` in model runner V2): the largest decode
batches then run without any graph. Measured on an H100 (gpt-oss-20b, 64 concurrent, k = 3): 77 to 84 ms
between tokens with sizes up to 64, 12.6 ms with sizes up to 256 = 64 x 4.

Left alone, vLLM captures 83 sizes for gpt-oss, up to 1,024 tokens whatever the batch: too few for 512
requests with k = 3, and for 64 requests 68 more than their decode batches need, at a cost in start-up time.
"""

from __future__ import annotations

# vLLM's own spacing (1, 2, 4, then every 8, from 256 every 16), but in requests, and with every count up
# to 8: a batch is padded to the next size, and a padded request is a large share of a small batch.
DENSE_UP_TO = 8
STEP = 8
WIDE_STEP_FROM = 256
WIDE_STEP = 16


def tokens_per_request(num_draft_tokens: int) -> int:
    """Returns the tokens of one decoding request in one step: the one it has, and its drafts."""
    return 1 + num_draft_tokens


def max_decode_tokens(max_concurrent_requests: int, num_draft_tokens: int) -> int:
    """Returns the tokens of the largest decode batch, which is the largest capture size."""
    return max_concurrent_requests * tokens_per_request(num_draft_tokens)


def capture_sizes(max_concurrent_requests: int, num_draft_tokens: int) -> list[int]:
    """Returns the CUDA-graph sizes to capture, in tokens, ascending.

    All are multiples of the tokens that a request takes, so vLLM rounds and drops none as long as
    `max_num_batched_tokens` is not below the last one, which the config sees to.
    """
    counts = {
        *range(1, DENSE_UP_TO + 1),
        *range(DENSE_UP_TO, WIDE_STEP_FROM, STEP),
        *range(WIDE_STEP_FROM, max_concurrent_requests, WIDE_STEP),
        max_concurrent_requests,
    }
    tokens = tokens_per_request(num_draft_tokens)
    return sorted(count * tokens for count in counts if count <= max_concurrent_requests)
