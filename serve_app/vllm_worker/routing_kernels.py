"""Routing of tokens to experts, compiled once and not anew for each length of a step.

Two kernels of vLLM 0.32's `triton_kernels` have the stride of a matrix of bits as a constant, and that stride
is the tokens of the step, rounded up to 32. So Triton compiles both for every 32 tokens that a step may be
longer, in front of whoever sends the first prompt of that length: 992 versions up to 8,192 tokens, and all
of them before the replica is ready took 179 s of an H100's host (benchmarks/results/capacity_gpu.json). As
an ordinary integer the stride costs one multiplication. vLLM replaces kernels of the same package itself
(`_patch_legacy_routing_for_nonpow2_topk`).
"""

from __future__ import annotations

import importlib
import logging
from types import FunctionType
from typing import Any

from serve_app import private_names

logger = logging.getLogger(__name__)

# Module, kernel, and the constant that follows from the length of a step.
KERNELS = (
    ("triton_kernels.topk", "_topk_forward", "stride_rn"),
    ("triton_kernels.reduction_details.reduce_bitmatrix", "_sum_bitmatrix_rows", "stride_bn"),
)


def install() -> None:
    """Replaces the kernels in this process, which must be able to import `triton_kernels`."""
    private_names.check(__name__)
    for module, kernel, constant in KERNELS:
        try:
            replace(importlib.import_module(module), kernel, constant)
        except (ImportError, AttributeError, ValueError) as error:
            # Other releases have other kernels. The engine runs, as vLLM alone would.
            logger.warning(
                "%s.%s is not the kernel that is known here (%s): prompts of new lengths will wait for "
                "kernels to be compiled. Use the triton_kernels that come with vLLM 0.32",
                module,
                kernel,
                error,
            )


def replace(module: Any, kernel: str, constant: str) -> None:
    """Puts a version of a kernel into its module for which `constant` is an ordinary integer.

    Raises `AttributeError` when there is no such kernel, `ValueError` when it has no such constant.
    """
    setattr(module, kernel, with_integer(getattr(module, kernel), constant))


def with_integer(kernel: Any, constant: str) -> Any:
    """Returns the Triton kernel compiled once for all values of `constant`, as far as Triton can.

    What it computes is the same. Raises `ValueError` when the kernel has no constant of this name.
    """
    import triton

    if not any(one.name == constant and one.is_constexpr for one in kernel.params):
        raise ValueError(f"it has no constant {constant}")
    function = kernel.fn
    # Triton takes constants from the annotations and the rest from the source, which the copy shares.
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    copy.__annotations__ = {name: kind for name, kind in function.__annotations__.items() if name != constant}
    return triton.jit(copy)
