"""Repairs of vLLM 0.32 on CPUs, where what its worker does for a GPU does nothing, or ends the engine."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from serve_app import private_names


def install() -> None:
    """Puts them into this process, a worker on a CPU.

    Raises `PrivateNameError` where vLLM would not call one of them.
    """
    private_names.check(__name__)
    from vllm.v1.sample import rejection_sampler
    from vllm.v1.sample.ops import topk_topp_sampler

    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
    topk_topp_sampler.apply_top_k_only = of_any_rows(topk_topp_sampler.apply_top_k_only)
    torch.Generator = Generator  # type: ignore[misc]


class Generator(torch.Generator):
    """A CPU generator that vLLM may ask to go back by what a discarded sample has taken.

    It does so for seeded requests whose prompt takes several steps, and CPU generators have no offset to go
    back by: the engine dies. Not going back costs only that such an answer depends on how its prompt was cut.
    """

    def get_offset(self) -> int:
        """Nothing that `set_offset` would need."""
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        """Changes nothing."""
        return self


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """Returns [num_tokens]: element i of `x` once for each token of request i, with one value replaced.

    `x` is [batch_size] and `cu_num_tokens` [batch_size] the running total of tokens. The same as vLLM's
    `expand_kernel`, in PyTorch. What vLLM has instead of that kernel on CPUs writes anything but 64-bit
    integers to a copy that nobody reads: temperature, top_k and top_p of sampled requests would be what the
    memory held before, and answers noise (vLLM issue 55005).
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    values = torch.where(x == replace_from, replace_to, x).to(x.dtype)
    return torch.repeat_interleave(values, counts.to(torch.int64), output_size=num_tokens)


def of_any_rows(
    apply_top_k: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Returns vLLM's `apply_top_k_only` for any number of rows.

    With a speculator each step goes through the check of drafts, and a step of prompts alone has none. Of
    no rows vLLM's function takes a maximum and ends the engine, for any request with `top_k` and no `top_p`.
    """

    @functools.wraps(apply_top_k)
    def apply(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return apply_top_k(logits, k) if len(logits) else logits

    return apply
