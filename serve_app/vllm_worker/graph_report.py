"""Whether decode batches run in full CUDA graphs, asked of vLLM itself once the engine is up.

vLLM changes its graphs in the worker, when it knows the attention backends, after all that the config can
check. What it would then do with a batch is decided by one method of its model runner, `dispatch`; so that is
what is asked, for every number of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from serve_app import private_names
from serve_app.config.graph_sizes import DecodeShape, describe_coverage

logger = logging.getLogger("ray.serve")

FULL = "FULL"


class GraphsMissingError(Exception):
    """The largest decode batch has no full CUDA graph. The text is one line, with the numbers."""


class GraphReport:
    """Mixed into vLLM's worker (`worker_extension_cls`), whose methods the replica calls by name."""

    model_runner: Any
    vllm_config: Any

    def report_graphs(self) -> dict[str, Any]:
        """Returns plain data: vLLM's settings after its own changes, and the graph of each decode batch.

        Raises `PrivateNameError` where vLLM has no such data: what is looked for and not found would be taken
        for an engine without a speculator, or of model runner V1.
        """
        private_names.check(__name__)
        runner = self.model_runner
        compilation = self.vllm_config.compilation_config
        num_requests = self.vllm_config.scheduler_config.max_num_seqs
        if (manager := getattr(runner, "cudagraph_manager", None)) is not None:
            tokens = manager.decode_query_len
            batches = [_mode(manager, count, tokens) for count in range(1, num_requests + 1)]
        else:  # model runner V1
            dispatcher = runner.cudagraph_dispatcher
            tokens = dispatcher.uniform_decode_query_len
            batches = [
                dispatcher.dispatch(count * tokens, uniform_decode=True)[0].name
                for count in range(1, num_requests + 1)
            ]
        # After its first draft, V2's speculator takes a token a request.
        drafts = getattr(getattr(runner, "speculator", None), "decode_cudagraph_manager", None)
        has_draft_steps = drafts is not None and tokens > 2
        return {
            "max_requests": num_requests,
            "tokens_per_request": tokens,
            "mode": compilation.cudagraph_mode.name,
            "sizes": list(compilation.cudagraph_capture_sizes or []),
            "batches": batches,
            "drafts": [_mode(drafts, n, 1) for n in range(1, num_requests + 1)] if has_draft_steps else [],
        }


def _mode(manager: Any, num_requests: int, tokens: int) -> str:
    found = manager.dispatch(num_requests, num_requests * tokens, tokens, 0, tokens)
    name: str = found.cg_mode.name
    return name


def check(report: Mapping[str, Any], shape: DecodeShape) -> None:
    """Raises `GraphsMissingError` if the largest decode batch has no full graph, warns of smaller ones."""
    found = report["max_requests"], report["tokens_per_request"]
    if found != (shape.max_concurrent_requests, shape.tokens_per_request):
        raise GraphsMissingError(
            f"vLLM runs {found[0]} requests x {found[1]} tokens, and the config says {shape}; remove what "
            "changes that from engine.engine_overrides and engine.environment"
        )
    if report["batches"][-1] != FULL:
        missing = _missing(report["batches"])
        coverage = describe_coverage(shape, report["sizes"])
        raise GraphsMissingError(
            f"vLLM has no full CUDA graph for decode batches of {missing} requests ({coverage}; "
            f"cudagraph_mode {report['mode']}), so every step under full load would be several times slower; "
            "its log above says why (an attention backend, a connector): remove that setting, or set "
            "engine.fast_boot to do without graphs"
        )
    for name, batches in (("decode", report["batches"]), ("draft", report["drafts"])):
        if missing := _missing(batches):
            logger.warning("vLLM has no full CUDA graph for %s batches of %s requests", name, missing)


def _missing(batches: list[str]) -> str:
    """The batches without a full graph, as ranges."""
    ranges: list[list[int]] = []
    for count, mode in enumerate(batches, 1):
        if mode != FULL:
            if ranges and ranges[-1][1] == count - 1:
                ranges[-1][1] = count
            else:
                ranges.append([count, count])
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in ranges)
