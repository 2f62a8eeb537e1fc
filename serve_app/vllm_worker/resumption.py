"""How an engine goes on with an answer that another one has begun.

To vLLM a request that goes on after preemption is a prompt with some output; this makes one of a new request.
The replica sends all tokens as the prompt, and says how many of them are the answer so far. The engine core
takes these for output when it makes its `Request`, and so limits, stop tokens and the prefix cache are as if
it had generated them itself. Its scheduler tells model runner V2 of both lengths in any case. To V1 the
tokens go in the sampling parameters. A grammar is given the tokens when it has been compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from serve_app import private_names

# In `SamplingParams.extra_args`: from the replica to the engine core, and from there to the worker.
NUM_OUTPUT_TOKENS, OUTPUT_TOKEN_IDS = "serve_app_num_output_tokens", "serve_app_output_token_ids"


class ForeignTokensError(ValueError):
    """The answer so far does not fit its grammar."""


def ask(params: Any, num_output_tokens: int) -> None:
    """Marks the last tokens of a prompt as the answer so far; of none, takes away any such mark.

    `params` are vLLM's `SamplingParams` of the request, whose `extra_args` come from a client.
    Raises `ValueError` for an answer that has its `max_tokens` already.
    """
    if num_output_tokens >= (params.max_tokens or 0):
        raise ValueError(f"the answer so far has {num_output_tokens} tokens of {params.max_tokens}")
    others = {
        name: value
        for name, value in (params.extra_args or {}).items()
        if name not in (NUM_OUTPUT_TOKENS, OUTPUT_TOKEN_IDS)
    }
    if num_output_tokens:
        others[NUM_OUTPUT_TOKENS] = num_output_tokens
        # They came with the first token.
        if params.prompt_logprobs is not None:
            params.prompt_logprobs = None
            params.skip_reading_prefix_cache = False
    params.extra_args = others or None


def install() -> None:
    """Lets the engine core and the worker of this process go on with answers.

    Raises `PrivateNameError` where vLLM would not call one of them.
    """
    private_names.check(__name__)
    from vllm.v1.request import Request
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    Request.from_engine_core_request = staticmethod(splitting(Request.from_engine_core_request))
    StructuredOutputManager._create_grammar = replaying(StructuredOutputManager._create_grammar)
    CachedRequestState.__post_init__ = with_output(CachedRequestState.__post_init__)


def splitting(new_request: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `Request.from_engine_core_request` such that the answer so far is output and not prompt."""

    @functools.wraps(new_request)
    def split(request: Any, block_hasher: Any) -> Any:
        arguments = getattr(request.sampling_params, "extra_args", None) or {}
        num_output_tokens = arguments.pop(NUM_OUTPUT_TOKENS, 0)
        if not num_output_tokens:
            return new_request(request, block_hasher)
        whole = request.prompt_token_ids
        request.prompt_token_ids, output = whole[:-num_output_tokens], whole[-num_output_tokens:]
        arguments[OUTPUT_TOKEN_IDS] = output
        made = new_request(request, block_hasher)
        made.append_output_token_ids(output)
        # What was cached of the prompt is not said of a request that goes on after preemption either. The
        # scheduler would refuse to say it: more may be cached than the prompt has.
        made.prefill_stats = None
        return made

    return split


def replaying(create_grammar: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `StructuredOutputManager._create_grammar` such that the grammar stands behind the output.

    It runs in a thread of vLLM's for grammars, and the request waits for it. Grammars are of whole answers.
    """

    @functools.wraps(create_grammar)
    def create(self: Any, request: Any) -> Any:
        grammar = create_grammar(self, request)
        output = list(request.output_token_ids)
        if output and not grammar.accept_tokens(request.request_id, output):
            raise ForeignTokensError(f"request {request.request_id}: its grammar refuses its answer so far")
        return grammar

    return create


def with_output(post_init: Callable[..., None]) -> Callable[..., None]:
    """Returns `CachedRequestState.__post_init__` such that model runner V1 knows the output."""

    @functools.wraps(post_init)
    def initialise(self: Any) -> None:
        post_init(self)
        arguments = getattr(self.sampling_params, "extra_args", None) or {}
        if not self.output_token_ids:
            self.output_token_ids.extend(arguments.get(OUTPUT_TOKEN_IDS, ()))

    return initialise
