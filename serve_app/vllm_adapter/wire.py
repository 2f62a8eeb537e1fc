"""Engine core outputs as they travel in step frames: vLLM's own encoding, the one its engine process uses."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from serve_app.step_frames import Parts

# Fields that an output without anything but tokens has; of the rest, some come once and some per token.
_MERGED_FIELDS = frozenset(("request_id", "new_token_ids", "finish_reason", "stop_reason"))
_OTHER_DEFAULTS = {
    name: default
    for name, default in zip(
        reversed(EngineCoreOutput.__struct_fields__),
        reversed(EngineCoreOutput.__struct_defaults__),
        strict=False,
    )
    if name not in _MERGED_FIELDS
}


def new_encoder() -> Callable[[list[EngineCoreOutput]], Parts]:
    """Returns a function that encodes a frame's outputs."""
    return MsgpackEncoder().encode


def new_decoder() -> Callable[[Parts], list[EngineCoreOutput]]:
    """Returns the inverse of `new_encoder`'s. What it returns refers to the parts' memory."""
    return MsgpackDecoder(list[EngineCoreOutput]).decode


def merge(first: EngineCoreOutput, second: EngineCoreOutput) -> EngineCoreOutput | None:
    """Returns two successive outputs of a request as one, or None when the second has more than tokens."""
    for name, default in _OTHER_DEFAULTS.items():
        if getattr(second, name) != default:
            return None
    if first.new_logprobs is not None:
        return None
    return replace(
        first,
        new_token_ids=first.new_token_ids + second.new_token_ids,
        finish_reason=second.finish_reason,
        stop_reason=second.stop_reason,
    )
