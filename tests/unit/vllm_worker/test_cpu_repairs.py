"""The repairs for CPUs, on vLLM's own code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serve_app.private_names import PrivateNameError
from serve_app.vllm_worker import cpu_repairs
from serve_app.vllm_worker.cpu_repairs import Generator, expand_batch_to_tokens

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's


@pytest.fixture
def rejection_sampler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """vLLM's module, as it was, after the test."""
    from vllm.v1.sample import rejection_sampler
    from vllm.v1.sample.ops import topk_topp_sampler

    monkeypatch.setattr(rejection_sampler, "expand_batch_to_tokens", rejection_sampler.expand_batch_to_tokens)
    monkeypatch.setattr(topk_topp_sampler, "apply_top_k_only", topk_topp_sampler.apply_top_k_only)
    monkeypatch.setattr(torch, "Generator", torch.Generator)
    return rejection_sampler


def test_values_are_repeated_for_the_tokens_of_each_request() -> None:
    x, totals = torch.tensor([0.5, 0.0, 2.0]), torch.tensor([2, 3, 3], dtype=torch.int32)
    assert expand_batch_to_tokens(x, totals, 3).tolist() == [0.5, 0.5, 0.0]
    # Greedy requests have the temperature 0, which nothing may be divided by.
    assert expand_batch_to_tokens(x, totals, 3, replace_from=0, replace_to=1).tolist() == [0.5, 0.5, 1.0]


def test_whole_numbers_stay_whole() -> None:
    found = expand_batch_to_tokens(torch.tensor([5, -1], dtype=torch.int32), torch.tensor([1, 2]), 2, -1, 100)
    assert found.tolist() == [5, 100]
    assert found.dtype is torch.int32


def test_vllm_uses_them(rejection_sampler: Any) -> None:
    """vLLM's own function, which without the repair divides by what the memory held before."""
    cpu_repairs.install()
    sampling = SimpleNamespace(all_greedy=False, temperature=torch.tensor([2.0, 0.5]), top_k=None, top_p=None)
    logits = torch.ones(3, 4)
    found = rejection_sampler.apply_sampling_constraints(logits, torch.tensor([1, 3]), sampling)
    assert found[:, 0].tolist() == [0.5, 2.0, 2.0]
    assert torch.Generator is Generator


def test_a_step_without_drafts_may_have_top_k(rejection_sampler: Any) -> None:
    """vLLM's own function, which without the repair takes the maximum of nothing."""
    cpu_repairs.install()
    sampling = SimpleNamespace(
        all_greedy=False,
        temperature=torch.tensor([1.0]),
        top_k=torch.tensor([2], dtype=torch.int32),
        top_p=None,
    )
    constrain = rejection_sampler.apply_sampling_constraints
    assert constrain(torch.ones(0, 4), torch.tensor([0]), sampling).shape == (0, 4)
    found = constrain(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), torch.tensor([1]), sampling)
    assert found.tolist() == [[float("-inf"), 3.0, 2.0, float("-inf")]]


def test_a_seeded_generator_gives_the_same_numbers_and_can_be_put_back() -> None:
    ours, torchs = Generator(device="cpu"), torch.Generator(device="cpu")
    for generator in (ours, torchs):
        generator.manual_seed(7)
    assert torch.equal(torch.rand(4, generator=ours), torch.rand(4, generator=torchs))
    # What vLLM does with a sample that it discards.
    ours.set_offset(ours.get_offset() - 4)


def test_a_vllm_that_would_not_call_it_is_refused(
    rejection_sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(logits: Any) -> Any:
        return logits

    monkeypatch.setattr(rejection_sampler, "apply_sampling_constraints", fused)
    with pytest.raises(PrivateNameError, match=r"noise on CPUs .* is installed"):
        cpu_repairs.install()
    assert rejection_sampler.expand_batch_to_tokens is not expand_batch_to_tokens
