"""vLLM's routing of tokens to experts, and ours: the same answers, and no version for each length."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.vllm_worker import routing_kernels

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]

LENGTHS = [1, 2, 16, 31, 32, 33, 64, 100, 127, 128, 129, 257, 1000, 4097, 8191, 8192]
# As gpt-oss-20b and gpt-oss-120b.
EXPERTS, CHOSEN = [32, 128], 4
# An integer is 1, a multiple of 16 or neither, and two integers follow from the length.
MAX_VERSIONS = 9


@pytest.fixture
def kernels() -> Iterator[list[tuple[Any, str]]]:
    """The modules with the kernels, as vLLM has them; put back in the end."""
    from vllm.utils.import_utils import has_triton_kernels

    assert has_triton_kernels()
    found = [(importlib.import_module(module), kernel) for module, kernel, _ in routing_kernels.KERNELS]
    originals = [getattr(module, kernel) for module, kernel in found]
    yield found
    for (module, kernel), original in zip(found, originals, strict=True):
        setattr(module, kernel, original)


def route(logits: Any) -> list[Any]:
    """All that the routing says: who goes where, how many to each expert, and their weights."""
    routing = importlib.import_module("triton_kernels.routing").routing
    data, gather, scatter = routing(logits, CHOSEN, sm_first=False)
    return [
        data.gate_scal,
        data.expt_hist,
        gather.src_indx,
        gather.dst_indx,
        scatter.src_indx,
        scatter.dst_indx,
        data.expt_data.token_offs_raw,
    ]


def num_versions(kernel: Any) -> int:
    """How often Triton has compiled it in this process."""
    return sum(len(versions[0]) for versions in kernel.device_caches.values())


@pytest.mark.parametrize("experts", EXPERTS)
def test_the_same_answers_from_few_versions(kernels: list[tuple[Any, str]], experts: int) -> None:
    import torch

    torch.manual_seed(experts)
    steps = [torch.randn(n, experts, dtype=torch.bfloat16, device="cuda") for n in LENGTHS]
    expected = [route(logits) for logits in steps]
    before = [num_versions(getattr(module, kernel)) for module, kernel in kernels]
    routing_kernels.install()
    for logits, answer in zip(steps, expected, strict=True):
        for ours, theirs in zip(route(logits), answer, strict=True):
            assert torch.equal(ours, theirs), len(logits)
    after = [num_versions(getattr(module, kernel)) for module, kernel in kernels]
    assert max(after) <= MAX_VERSIONS < min(before), (before, after)
