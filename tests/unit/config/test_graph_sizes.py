import itertools
import math

import pytest

from serve_app.config.graph_sizes import DecodeShape, batch_sizes, capture_sizes, describe_coverage

MAX_REQUESTS, MAX_DRAFT_TOKENS = 1024, 8  # what the config allows


def test_sizes_of_the_production_config() -> None:
    requests = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert capture_sizes(DecodeShape(64, 3)) == [4 * count for count in requests]


def test_without_drafts_a_request_is_one_token() -> None:
    assert DecodeShape(8, 0).tokens_per_request == 1
    assert capture_sizes(DecodeShape(8, 0)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_one_request() -> None:
    assert capture_sizes(DecodeShape(1, 0)) == [1]
    assert capture_sizes(DecodeShape(1, 7)) == [1, 8]  # the 1 for the speculator's own steps


@pytest.mark.parametrize("num_draft_tokens", range(MAX_DRAFT_TOKENS + 1))
def test_every_batch_fits_a_size_with_a_quarter_of_padding_at_most(num_draft_tokens: int) -> None:
    """All that the config allows: each batch, of each maximum, with each number of drafts."""
    for most in range(1, MAX_REQUESTS + 1):
        shape = DecodeShape(most, num_draft_tokens)
        sizes, tokens = capture_sizes(shape), shape.tokens_per_request
        assert all(a < b for a, b in itertools.pairwise(sizes))
        multiples = [size for size in sizes if size % tokens == 0]
        assert set(sizes) - set(multiples) <= {most}
        assert multiples[0] == tokens
        assert multiples[-1] == sizes[-1] == shape.max_decode_tokens
        before = 0
        for size in multiples:
            # The smallest batch that is padded to this size is padded most.
            batch = before + 1
            assert (size // tokens - batch) / batch <= 0.25
            before = size // tokens


def test_each_small_batch_has_a_size_of_its_own() -> None:
    for most in range(1, MAX_REQUESTS + 1):
        assert batch_sizes(most)[: min(most, 8)] == list(range(1, min(most, 8) + 1))


def test_the_number_of_graphs_is_bounded() -> None:
    """Each graph costs start-up time; vLLM's default for gpt-oss has 83."""
    for most in range(1, MAX_REQUESTS + 1):
        bound = most if most <= 8 else 8 + 4 * math.ceil(math.log2(most / 8))
        assert len(batch_sizes(most)) <= bound
    assert len(capture_sizes(DecodeShape(64, 3))) == 20
    assert len(capture_sizes(DecodeShape(256, 3))) == 28
    assert len(capture_sizes(DecodeShape(1024, 0))) == 36


@pytest.mark.parametrize("num_draft_tokens", range(MAX_DRAFT_TOKENS + 1))
def test_vllm_changes_nothing(num_draft_tokens: int) -> None:
    """`adjust_cudagraph_sizes_for_spec_decode` of vLLM 0.32 rounds up, and drops what is then too large."""
    for requests in range(1, 300):
        shape = DecodeShape(requests, num_draft_tokens)
        sizes, tokens = capture_sizes(shape), shape.tokens_per_request
        rounded = {-(-size // tokens) * tokens for size in sizes}
        kept = {size for size in rounded if size <= sizes[-1]}
        assert {count * tokens for count in batch_sizes(requests)} <= kept


@pytest.mark.parametrize(
    ("sizes", "largest", "held"),
    [
        ([16, 32, 64], None, "sizes up to 64 tokens hold batches of 16 requests"),
        ([1, 2, 62], None, "sizes up to 62 tokens hold batches of 1 requests"),
        ([64, 128, 256], 200, "sizes up to 128 tokens hold batches of 32 requests"),
        ([512], None, "sizes up to 512 tokens hold batches of 64 requests"),
        ([], None, "sizes up to 0 tokens hold batches of 0 requests"),
    ],
)
def test_coverage_in_words(sizes: list[int], largest: int | None, held: str) -> None:
    shape = DecodeShape(64, 3)
    assert describe_coverage(shape, sizes, largest) == f"64 requests x (1 + 3) tokens = 256 tokens: {held}"
