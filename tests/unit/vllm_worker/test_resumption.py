"""Where the answer so far goes, in vLLM's own classes: its core's request, and both model runners' states."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.vllm_worker import resumption
from serve_app.vllm_worker.resumption import NUM_OUTPUT_TOKENS, OUTPUT_TOKEN_IDS, ForeignTokensError
from tests.examples import examples

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's

MAX_MODEL_LEN = 128
tokens = st.lists(st.integers(0, 9), max_size=30)
some_tokens = st.lists(st.integers(0, 9), min_size=1, max_size=30)


def params(**fields: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"max_tokens": 50} | fields)


def block_hasher(request: Any) -> list[bytes]:
    """As vLLM's: a hash of each four tokens that are new, and of all before them."""
    whole = [tuple(request.all_token_ids[:end]) for end in range(4, request.num_tokens + 1, 4)]
    return [repr(tokens).encode() for tokens in whole[len(request.block_hashes) :]]


def core_request(token_ids: list[int], sampling_params: Any) -> Any:
    from vllm.v1.engine import EngineCoreRequest

    return EngineCoreRequest("r", token_ids, None, sampling_params, None, 0.0, None, None, None)


def resumed(prompt: list[int], output: list[int], sampling_params: Any) -> Any:
    """What an engine core makes of a request that a replica has asked it to go on with."""
    from vllm.v1.request import Request

    resumption.ask(sampling_params, len(output))
    split = resumption.splitting(Request.from_engine_core_request)
    return split(core_request(prompt + output, sampling_params), block_hasher)


@examples(100)
@given(prompt=some_tokens, output=tokens)
def test_it_is_the_request_that_has_generated_the_tokens_itself(prompt: list[int], output: list[int]) -> None:
    from vllm.v1.request import Request

    whole = Request.from_engine_core_request(core_request(prompt, params()), block_hasher)
    for token in output:
        whole.append_output_token_ids(token)
    made = resumed(prompt, output, params())
    for name in ("prompt_token_ids", "num_prompt_tokens", "num_output_tokens", "num_tokens", "max_tokens"):
        assert getattr(made, name) == getattr(whole, name)
    assert made.block_hashes == whole.block_hashes
    assert list(made.output_token_ids) == output
    assert list(made.all_token_ids) == prompt + output
    # The scheduler would say that no more was cached than the prompt has.
    assert (made.prefill_stats is None) == bool(output)


@examples(100)
@given(output=some_tokens, last=st.integers(0, 9), limit=st.integers(1, 40), least=st.integers(0, 40))
def test_it_ends_where_the_whole_answer_does(output: list[int], last: int, limit: int, least: int) -> None:
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_stop

    sampling_params = params(
        max_tokens=max(limit, least, len(output) + 1),
        min_tokens=least,
        stop_token_ids=[7],
        repetition_detection=RepetitionDetectionParams(max_pattern_size=2, min_count=3),
    )
    made = resumed([1, 2], output, sampling_params)
    made.append_output_token_ids(last)
    num_tokens = len(output) + 1
    stops = check_stop(made, MAX_MODEL_LEN)
    whole = [*output, last]
    repeats = any(whole[-size * 3 :] == whole[-size:] * 3 for size in (1, 2))
    assert stops == (
        last == 7 or num_tokens == sampling_params.max_tokens or (num_tokens >= least and repeats)
    )


@pytest.mark.parametrize("extra_args", [None, {}, {"kv_cache_report_mode": "full"}])
def test_others_arguments_stay(extra_args: dict[str, Any] | None) -> None:
    made = params(extra_args=extra_args)
    resumption.ask(made, 3)
    assert made.extra_args == (extra_args or {}) | {NUM_OUTPUT_TOKENS: 3}
    resumption.ask(made, 0)
    assert (made.extra_args or {}) == (extra_args or {})


@pytest.mark.parametrize("name", [NUM_OUTPUT_TOKENS, OUTPUT_TOKEN_IDS])
def test_a_client_cannot_ask(name: str) -> None:
    made = params(extra_args={name: [1, 2], "other": 1})
    resumption.ask(made, 0)
    assert made.extra_args == {"other": 1}


def test_an_answer_that_is_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="has 50 tokens of 50"):
        resumption.ask(params(), 50)


class Grammar:
    """Takes even tokens."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def accept_tokens(self, request_id: str, token_ids: list[int]) -> bool:
        self.taken += token_ids
        return not any(token % 2 for token in token_ids)


@examples(100)
@given(output=tokens)
def test_a_grammar_stands_behind_the_answer_so_far(output: list[int]) -> None:
    request = resumed([1], output, params())
    create = resumption.replaying(lambda manager, request: Grammar())
    if any(token % 2 for token in output):
        with pytest.raises(ForeignTokensError):
            create(None, request)
    else:
        assert create(None, request).taken == output


@examples(100)
@given(prompt=some_tokens, output=tokens)
def test_model_runner_v1_has_the_output_apart(prompt: list[int], output: list[int]) -> None:
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    with_output = resumption.with_output(CachedRequestState.__post_init__)
    data = NewRequestData.from_request(resumed(prompt, output, params()), ([0],))
    # As `GPUModelRunner._update_states` makes it.
    given = {field.name: getattr(data, field.name, None) for field in dataclasses.fields(CachedRequestState)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachedRequestState, "__post_init__", with_output)
        state = CachedRequestState(**given | {"output_token_ids": [], "prev_num_draft_len": 0})
    assert (state.prompt_token_ids, state.num_prompt_tokens) == (prompt, len(prompt))
    assert state.output_token_ids == output
    assert state.num_tokens == len(prompt + output)
    # What it appends to its own is not the sampling parameters' any more.
    state.output_token_ids.append(1)
    assert (data.sampling_params.extra_args or {}).get(OUTPUT_TOKEN_IDS, []) == output


def test_model_runner_v2_has_prompt_and_output_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs a GPU; without one, what its states are told of a new request."""
    import torch
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.worker.gpu import buffer_utils
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.sample.logit_bias import LogitBiasState
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcRequestState
    from vllm.v1.worker.gpu.states import RequestState

    monkeypatch.setattr(buffer_utils, "is_uva_available", lambda: False)
    prompt, output = [1, 2, 3], [4, 5]
    request = resumed(prompt, output, params(min_tokens=4))
    request.sampling_params._all_stop_token_ids = {7}
    # As `Scheduler.schedule` makes it.
    data = NewRequestData.from_request(request, ([0],), request._all_token_ids)
    states = RequestState(2, MAX_MODEL_LEN, 64, 3, 10, torch.device("cpu"))
    states.apply_staged_writes = lambda: None
    bias = LogitBiasState(None, LogitsProcRequestState.from_request_state(states))
    ignored = SimpleNamespace(
        add_request=lambda *_: None, append_block_ids=lambda *_, **__: None, apply_staged_writes=lambda: None
    )
    runner: Any = SimpleNamespace(
        _remove_request=lambda _: None,
        req_states=states,
        adaptive_verification=None,
        pooling_runner=None,
        encoder_cache=None,
        model_state=ignored,
        block_tables=ignored,
        lora_state=ignored,
        is_last_pp_rank=True,
        sampler=SimpleNamespace(add_request=bias.add_request, apply_staged_writes=lambda: None),
        prompt_logprobs_worker=ignored,
    )
    GPUModelRunner.add_requests(runner, SimpleNamespace(scheduled_new_reqs=[data]))
    index = states.req_id_to_index["r"]
    assert (states.prompt_len.np[index], states.prefill_len.np[index]) == (3, 5)
    assert states.total_len._staged_write_contents == [5]
    assert states.all_token_ids._staged_write_contents == prompt + output
    assert states.max_seq_len[index] == 3 + 50  # max_tokens are of the whole answer
    assert bias.min_lens.np[index] == 3 + 4  # min_tokens too
