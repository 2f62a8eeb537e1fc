import pytest

from serve_app.capacity import capture_sizes, max_decode_tokens, tokens_per_request


def test_sizes_of_the_production_config() -> None:
    assert capture_sizes(64, 3) == [4, 8, 12, 16, 20, 24, 28, 32, 64, 96, 128, 160, 192, 224, 256]


def test_without_drafts_a_request_is_one_token() -> None:
    assert tokens_per_request(0) == 1
    assert capture_sizes(8, 0) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_one_request() -> None:
    assert capture_sizes(1, 0) == [1]
    assert capture_sizes(1, 7) == [8]


@pytest.mark.parametrize("num_draft_tokens", range(9))
def test_every_size_holds_whole_requests_and_the_largest_batch_is_inside(num_draft_tokens: int) -> None:
    tokens = tokens_per_request(num_draft_tokens)
    for requests in (*range(1, 300), 511, 512, 1000, 1024):
        sizes = capture_sizes(requests, num_draft_tokens)
        assert sizes == sorted(set(sizes))
        assert all(size % tokens == 0 for size in sizes)
        assert sizes[0] == tokens
        assert sizes[-1] == max_decode_tokens(requests, num_draft_tokens)


@pytest.mark.parametrize("num_draft_tokens", range(9))
def test_vllm_changes_nothing(num_draft_tokens: int) -> None:
    """`adjust_cudagraph_sizes_for_spec_decode` of vLLM 0.29 rounds up, and drops what is then too large."""
    tokens = tokens_per_request(num_draft_tokens)
    for requests in range(1, 300):
        sizes = capture_sizes(requests, num_draft_tokens)
        rounded = {-(-size // tokens) * tokens for size in sizes}
        assert sorted(size for size in rounded if size <= sizes[-1]) == sizes


def test_padding_is_bounded() -> None:
    """A batch is padded to the next size: by nothing up to 8 requests, by fewer than 8 or 16 above."""
    counts = capture_sizes(1024, 0)
    for requests in range(1, 1025):
        padding = min(count for count in counts if count >= requests) - requests
        assert padding <= (0 if requests <= 8 else 7 if requests <= 256 else 15)


def test_number_of_graphs_stays_small() -> None:
    """Each graph costs start-up time; vLLM's default for gpt-oss has 83."""
    assert len(capture_sizes(64, 3)) == 15
    assert len(capture_sizes(256, 3)) == 39
    assert len(capture_sizes(1024, 0)) == 87
