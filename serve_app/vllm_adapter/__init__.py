"""Everything this project takes from inside vLLM 0.32, and nothing else imports vLLM.

Two halves, which meet at the engine core's own messages:

- `TokenEngine`, in an engine replica: an `AsyncLLM` that hands out what its engine core produced, step by
  step (token ids, logprobs, finish reason), without turning it into text.
- `RemoteEngine`, in an ingress: sequences that run in engine replicas. It needs of vLLM the sampling
  parameters (`SamplingParamsEncoder`) and the encoding of outputs.

vLLM's internals move between releases. `tests/app/test_equality.py` compares the result with `vllm serve`.
"""

from vllm import __version__ as vllm_version
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
