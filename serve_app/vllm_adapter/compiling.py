"""What compiled code depends on, and the names of vLLM's engine arguments."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import Any

import torch
from vllm import AsyncEngineArgs, envs
from vllm import __version__ as vllm_version
from vllm.config.utils import hash_factors
from vllm.platforms import current_platform

# Besides vLLM and torch, what compiles kernels or is compiled against; those that are installed count.
COMPILING_PACKAGES = (
    "triton",
    "flashinfer-python",
    "flashinfer-cubin",
    "nvidia-cutlass-dsl",
    "quack-kernels",
    "apache-tvm-ffi",
    "tilelang",
)


def argument_names() -> frozenset[str]:
    """The names that `engine_overrides` may use: the fields of vLLM's `AsyncEngineArgs`."""
    return frozenset(field.name for field in dataclasses.fields(AsyncEngineArgs))


def compiler_factors() -> dict[str, Any]:
    """What compiled code depends on besides engine arguments and host: versions, device, vLLM's switches.

    Asks the driver through NVML: a CUDA context in this process would take memory from the engine's.
    """
    factors: dict[str, Any] = {
        "vllm": vllm_version,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "device": current_platform.get_device_name(),
        "capability": str(current_platform.get_device_capability()),
        "packages": {name: _version(name) for name in COMPILING_PACKAGES},
        # Of the environment, what vLLM itself takes into account.
        "switches": hash_factors(envs.compile_factors()),
    }
    if current_platform.is_cuda():
        from vllm.third_party import pynvml

        pynvml.nvmlInit()
        factors["driver"] = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    return factors


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
