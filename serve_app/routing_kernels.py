"""Compiles the routing of steps of all lengths, in the worker, where the compiled kernels are kept.

Whole steps would do it too: some 500 of up to 8,192 tokens, each to have two small kernels compiled. So the
routing is called alone, as the model calls it (`triton_kernel_moe_forward`), and on several threads, since
much of a compilation is outside of Python. Nothing here touches the scheduler, the KV cache or the weights.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MAX_THREADS = 8
# Compiled on one thread, so that all threads find what does not differ.
NUM_FIRST = 4


class RoutingKernels:
    """A part of `WorkerExtension`."""

    model_runner: Any
    vllm_config: Any
    device: Any

    def compile_routing(self, lengths: Sequence[int]) -> dict[str, Any]:
        """Routes as many tokens as each of `lengths` says. Returns plain data: how many, or why not."""
        begun = time.perf_counter()
        if reason := _not_needed(self.model_runner.model, self.device.type):
            return {"lengths": 0, "reason": reason}
        import torch

        routing = importlib.import_module("triton_kernels.routing").routing
        model = self.vllm_config.model_config
        experts, chosen = model.hf_text_config.num_local_experts, model.hf_text_config.num_experts_per_tok

        def route(length: int) -> None:
            torch.cuda.set_device(self.device)
            with torch.inference_mode():
                logits = torch.zeros((length, experts), dtype=model.dtype, device=self.device)
                routing(logits, chosen, sm_first=False)

        failed: list[int] = []

        def try_to_route(length: int) -> None:
            try:
                route(length)
            except Exception:  # again, and alone
                failed.append(length)

        for length in lengths[:NUM_FIRST]:
            route(length)
        threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(try_to_route, lengths[NUM_FIRST:]))
        for length in failed:
            route(length)
        torch.cuda.synchronize(self.device)
        return {
            "lengths": len(lengths),
            "again": len(failed),
            "threads": threads,
            "seconds": round(time.perf_counter() - begun, 2),
        }


def _not_needed(model: Any, device: str) -> str:
    """Why the model does not route with these kernels, or nothing."""
    if device != "cuda":
        return "no GPU"
    try:
        from vllm.model_executor.layers.fused_moe.experts import gpt_oss_triton_kernels_moe as kernels
        from vllm.model_executor.layers.fused_moe.oracle.mxfp4 import TRITON_BACKENDS
    except ImportError as error:
        return str(error)
    if not kernels.use_legacy_triton_kernels:
        return "other triton_kernels than vLLM's own"
    methods: list[Any] = [getattr(module, "quant_method", None) for module in model.modules()]
    backends = {method.mxfp4_backend for method in methods if hasattr(method, "mxfp4_backend")}
    if backends and not backends & set(TRITON_BACKENDS):
        return f"the experts run on {', '.join(sorted(str(backend) for backend in backends))}"
    return ""
