"""Everything this project takes from inside vLLM 0.29, and nothing else imports vLLM.

Two halves, which meet at the engine core's own messages:

- `TokenEngine`, in an engine replica: an `AsyncLLM` that hands out what its engine core produced, step by
  step (token ids, logprobs, finish reason), without turning it into text.
- `RemoteLLM`, in an ingress: an `AsyncLLM` whose engine cores are somewhere else. Rendering, validation,
  `n > 1`, detokenising, stop strings, logprobs and output kinds are therefore vLLM's own code, and the
  serving handlers added by `attach_api` behave as they do in `vllm serve`.

vLLM's internals move between releases. `tests/app/test_equality.py` compares the result with `vllm serve`.
"""

from vllm.exceptions import VLLMClientError
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.exceptions import EngineDeadError

from serve_app.vllm_adapter.compiling import argument_names, compiler_factors
from serve_app.vllm_adapter.remote_llm import RemoteLLM
from serve_app.vllm_adapter.routes import attach_api
from serve_app.vllm_adapter.token_engine import TokenEngine

__all__ = [
    "EngineDeadError",
    "RemoteLLM",
    "TokenEngine",
    "VLLMClientError",
    "argument_names",
    "attach_api",
    "compiler_factors",
    "freeze_gc_heap",
]
