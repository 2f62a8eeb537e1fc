"""What this package does inside the processes that vLLM starts: the engine core and its workers.

vLLM calls `install` in each of them, through the entry point `vllm.general_plugins` in pyproject.toml.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from serve_app.staging import timeline
from serve_app.vllm_worker import grammars, phases, routing_kernels


def install() -> None:
    """Runs once in every process that imports vLLM's engine; does something in those that vLLM started."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    threading.Thread(target=_leave_with, args=(parent,), name="leave-with-parent", daemon=True).start()
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import has_triton_kernels

    if path := os.environ.get(timeline.VARIABLE):
        from vllm.v1.worker.worker_base import WorkerWrapperBase

        phases.watch(WorkerWrapperBase, Path(path))
    grammars.install()
    # The question also gives vLLM's own copy the name `triton_kernels`.
    if current_platform.is_cuda() and has_triton_kernels():
        routing_kernels.install()
    if current_platform.is_cpu():
        _repair_sampling_under_speculation()
        torch.Generator = Generator  # type: ignore[misc]


def _leave_with(parent: BaseProcess) -> None:
    """An engine core whose replica was killed would keep its GPU's memory for ever."""
    parent.join()
    os._exit(1)


def _repair_sampling_under_speculation() -> None:
    """vLLM 0.29 expands temperature, top_k and top_p by a Triton kernel that its CPU build does not have.

    The placeholder does nothing, so the values are what the memory held before: sampled answers are noise
    (vLLM issue 55005). Greedy requests do not come here.
    """
    from vllm.v1.sample import rejection_sampler

    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens


class Generator(torch.Generator):
    """A CPU generator that vLLM 0.29 may ask to go back by what a discarded sample has taken.

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
