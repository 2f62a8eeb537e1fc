import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from serve_app.config import AppConfig
from serve_app.config.graph_sizes import DecodeShape, batch_sizes, capture_sizes
from serve_app.warm_up import step_shapes
from serve_app.warm_up.rounds import FEATURES, NOT_WITH_DRAFTS, Round, WarmUpRequest, plan

SPECULATOR = {"source": "hf:a/b", "num_draft_tokens": 3}


def config(speculator: Any = SPECULATOR, **engine: Any) -> AppConfig:
    engine = {"max_concurrent_requests": 64} | engine
    return AppConfig.model_validate({"engine": engine, "speculator": speculator})


def rounds(speculator: Any = SPECULATOR, **engine: Any) -> list[Round]:
    return plan(config(speculator, **engine))


def alone(one: Round) -> bool:
    return one.name.startswith("prefill of ") and len(one.requests) == 1


def requests(found: list[Round]) -> list[WarmUpRequest]:
    return [request for one in found for request in one.requests]


def test_every_captured_batch_runs_and_some_with_everything() -> None:
    found = rounds()
    kinds: dict[int, int] = {}
    for one in found:
        size = len(one.requests)
        kinds[size] = max(kinds.get(size, 0), len({str(request.sampling) for request in one.requests}))
    assert set(batch_sizes(64)) <= set(kinds)
    assert kinds[64] == len(FEATURES) - 2
    # Rows of the sampler: 1, multiples of 16, and neither.
    assert (kinds[9], kinds[16]) == (9, 16)
    assert 100 < len(found) < 150


def test_rounds_of_a_phase_follow_each_other() -> None:
    phases = [phase for phase, _ in itertools.groupby(one.phase for one in rounds())]
    assert len(phases) == len(set(phases)) == 6


@pytest.mark.parametrize("most", [1, 16, 64, 512])
@pytest.mark.parametrize("experts", [32, 128])
def test_prefills_run_all_kernels_of_the_experts(most: int, experts: int) -> None:
    def kinds(lengths: Iterable[int]) -> set[Any]:
        return {kind for length in lengths for kind in step_shapes.kinds(length, experts)}

    lengths = {one.requests[0].prompt_tokens for one in rounds(max_concurrent_requests=most) if alone(one)}
    first = max(capture_sizes(DecodeShape(most, 3))) + 1
    assert kinds(range(first, 8193)) <= kinds(lengths)
    assert len(lengths) < 50


def test_every_feature_alone_and_in_a_full_batch() -> None:
    for speculator in (SPECULATOR, None):
        found = rounds(speculator)
        for name, sampling in FEATURES.items():
            sizes = [len(one.requests) for one in found if all(r.sampling == sampling for r in one.requests)]
            is_refused = bool(speculator and sampling.keys() & NOT_WITH_DRAFTS)
            assert ({1, 64} <= set(sizes)) == (not is_refused), name


def test_a_batch_decodes_together() -> None:
    """All prompts fit one step, and the first answer is not done before the last prompt has come."""
    for most in (1, 9, 64, 1024):
        for one in rounds(max_concurrent_requests=most):
            if " requests, " in one.name:
                size = len(one.requests)
                assert sum(request.prompt_tokens for request in one.requests) <= 8192
                if "kinds" in one.name:
                    assert all(request.max_tokens >= 4 * size // 8 for request in one.requests)


def test_prompts_of_all_lengths() -> None:
    lengths = {one.requests[0].prompt_tokens for one in rounds() if len(one.requests) == 1}
    assert {16, 13, 272, 544, 8192, 12293} <= lengths
    mixed = next(one for one in rounds() if one.name == "chunked prefill among decodes")
    assert sorted(request.prompt_tokens for request in mixed.requests) == [32] * 8 + [12293]


def test_a_prompt_is_repeated_for_the_prefix_cache() -> None:
    found = rounds()
    first, again = (next(r for r in found if r.name == name) for name in ("prefix, first", "prefix, again"))
    assert again.requests == first.requests * 2
    others = [request.token_ids()[0] for request in requests(found) if request not in first.requests]
    assert len(set(others)) == len(others), "no other prompt begins as another"


@pytest.mark.parametrize("max_model_len", [256, 4096, 131072])
@pytest.mark.parametrize("most", [1, 2, 64, 1024])
@pytest.mark.parametrize("num_gpus", [0, 1])
def test_nothing_is_longer_than_the_model_takes(max_model_len: int, most: int, num_gpus: int) -> None:
    speculator = {"source": "hf:a/b", "num_draft_tokens": 1}
    found = rounds(speculator, max_concurrent_requests=most, max_model_len=max_model_len, num_gpus=num_gpus)
    for request in requests(found):
        assert request.prompt_tokens >= 1
        assert request.max_tokens >= 1
        assert request.prompt_tokens + request.max_tokens <= max_model_len
    assert all(len(one.requests) <= max(most, 1) for one in found)


def test_requests_take_several_steps_with_drafts() -> None:
    """Though all drafts be accepted. Prefills are for the prompts alone."""
    assert all(r.max_tokens >= 16 for one in rounds() if not alone(one) for r in one.requests)
    assert all(one.requests[0].max_tokens == 1 for one in rounds() if alone(one))


@pytest.mark.parametrize("engine", [{"num_gpus": 0}, {"fast_boot": True}])
def test_without_graphs_the_plan_is_short(engine: dict[str, Any]) -> None:
    found = rounds(**engine)
    assert [len(one.requests) for one in found] == [1, 64, 1, 1]
    assert {"structured_outputs", "logprobs"} <= {key for one in found for key in one.requests[0].sampling}


def test_without_warm_up_it_is_one_request() -> None:
    for engine in ({}, {"num_gpus": 0}):
        assert [len(one.requests) for one in rounds(warm_up=False, **engine)] == [1]


@pytest.mark.parametrize(("limit", "allowed"), [(5, {0, 1, 2, 5}), (-1, {0, 1, 2, 5, 10, 15, 20})])
def test_vllms_limit_of_logprobs(limit: int, allowed: set[int]) -> None:
    found = rounds(engine_overrides={"max_logprobs": limit})
    values = {request.sampling["logprobs"] for request in requests(found) if "logprobs" in request.sampling}
    assert values == allowed


@pytest.fixture
def is_valid() -> Callable[[dict[str, Any]], None]:
    pytest.importorskip("vllm")
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    def make(sampling: dict[str, Any]) -> None:
        structured = sampling.pop("structured_outputs", None)
        SamplingParams(
            structured_outputs=StructuredOutputsParams(**structured) if structured else None, **sampling
        )

    return make


@pytest.mark.filterwarnings("ignore")  # vLLM's
def test_fields_are_vllms(is_valid: Callable[[dict[str, Any]], None]) -> None:
    for sampling in FEATURES.values():
        is_valid(dict(sampling))
