"""Engine core outputs as they travel in step frames: vLLM's own encoding, the one its engine process uses."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from serve_app.transport.frames import Parts


def new_encoder() -> Callable[[list[EngineCoreOutput]], Parts]:
    """Returns a function that encodes a frame's outputs."""
    return MsgpackEncoder().encode


def new_decoder() -> Callable[[Parts], list[EngineCoreOutput]]:
    """Returns the inverse of `new_encoder`'s. What it returns refers to the parts' memory."""
    return MsgpackDecoder(list[EngineCoreOutput]).decode


def is_plain(output: EngineCoreOutput) -> bool:
    """Whether an output has nothing but tokens."""
    return output.finish_reason is None and _has_only_tokens(output)


def merge(first: EngineCoreOutput, second: EngineCoreOutput) -> EngineCoreOutput | None:
    """Returns two successive outputs of a request as one, or None when that cannot be said in one."""
    if first.new_logprobs is not None or first.new_sampling_mask is not None or not _has_only_tokens(second):
        return None
    return replace(
        first,
        new_token_ids=first.new_token_ids + second.new_token_ids,
        finish_reason=second.finish_reason,
        stop_reason=second.stop_reason,
    )


def _has_only_tokens(output: EngineCoreOutput) -> bool:
    """Whether all fields but the tokens and the finish are as in most steps."""
    # Spelled out, because it runs for every step of every request; `test_wire` knows if a field is missing.
    return (
        output.new_logprobs is None
        and output.prefill_stats is None
        and output.events is None
        and output.new_prompt_logprobs_tensors is None
        and output.pooling_output is None
        and output.kv_transfer_params is None
        and output.ec_transfer_params is None
        and output.trace_headers is None
        and output.routed_experts is None
        and not output.num_nans_in_logits
        and output.mm_cache_miss_hashes is None
        and output.new_sampling_mask is None
        and output.spec_decode_metrics is None
        and output.prompt_token_id_logprobs is None
    )
