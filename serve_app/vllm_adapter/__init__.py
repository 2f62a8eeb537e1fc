"""Everything this project takes from inside vLLM 0.32, and nothing else imports vLLM.

Two halves, which meet at the engine core's own messages:

- `TokenEngine`, in an engine replica: an `AsyncLLM` that hands out what its engine core produced, step by
  step (token ids, logprobs, finish reason), without turning it into text.
- `RemoteEngine`, in an ingress: sequences that run in engine replicas. It needs of vLLM the sampling
  parameters (`SamplingParamsEncoder`) and the encoding of outputs.

All but vLLM itself is imported when it is asked for: an ingress does without the engine's half, which takes a
second.

vLLM's internals move between releases. `tests/app/test_equality.py` compares the result with `vllm serve`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vllm import __version__ as vllm_version

if TYPE_CHECKING:
    from vllm.exceptions import VLLMClientError
    from vllm.utils.gc_utils import freeze_gc_heap
    from vllm.v1.engine.exceptions import EngineDeadError

    from serve_app.vllm_adapter.arguments import argument_problems
    from serve_app.vllm_adapter.compiling import argument_names, compiler_factors
    from serve_app.vllm_adapter.remote_engine import RemoteEngine
    from serve_app.vllm_adapter.sampling_params import SamplingParamsEncoder
    from serve_app.vllm_adapter.token_engine import TokenEngine

__all__ = [
    "EngineDeadError",
    "RemoteEngine",
    "SamplingParamsEncoder",
    "TokenEngine",
    "VLLMClientError",
    "argument_names",
    "argument_problems",
    "compiler_factors",
    "freeze_gc_heap",
    "vllm_version",
]

_MODULES = {
    "EngineDeadError": "vllm.v1.engine.exceptions",
    "RemoteEngine": "serve_app.vllm_adapter.remote_engine",
    "SamplingParamsEncoder": "serve_app.vllm_adapter.sampling_params",
    "TokenEngine": "serve_app.vllm_adapter.token_engine",
    "VLLMClientError": "vllm.exceptions",
    "argument_names": "serve_app.vllm_adapter.compiling",
    "argument_problems": "serve_app.vllm_adapter.arguments",
    "compiler_factors": "serve_app.vllm_adapter.compiling",
    "freeze_gc_heap": "vllm.utils.gc_utils",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
