"""Two repairs of vLLM on CPUs, where what its worker does for a GPU does nothing, or ends the engine."""

from __future__ import annotations

import torch

from serve_app import private_names


def install() -> None:
    """Replaces both in this process, a worker on a CPU.

    vLLM expands temperature, top_k and top_p by a Triton kernel that its CPU build does not have. The
    placeholder does nothing, so the values are what the memory held before: sampled answers are noise (vLLM
    issue 55005). Greedy requests do not come here. Raises `PrivateNameError` where vLLM would not call it.
    """
    private_names.check(__name__)
    from vllm.v1.sample import rejection_sampler

    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
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
    `expand_kernel`, in PyTorch.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    values = torch.where(x == replace_from, replace_to, x).to(x.dtype)
    return torch.repeat_interleave(values, counts.to(torch.int64), output_size=num_tokens)
