"""vLLM's `SamplingParams` from a request's `Sampling`, and vLLM's refusals as errors of this service."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

from serve_app.api.sampling import Sampling
from serve_app.errors import BadRequestError, may_be_quoted
from serve_app.harmony.tokens import Vocabulary

logger = logging.getLogger("ray.serve")

GENERATION_CONFIG = "generation_config.json"
# What a checkpoint's generation config may set, as in vLLM's `ModelConfig.get_diff_sampling_param`.
DEFAULTS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
# A seed of 64 bits, with room for one for each choice of a request.
MIN_SEED, MAX_SEED = -(1 << 63), (1 << 63) - 1024
MAX_CACHED, MAX_CACHED_BYTES = 512, 1024
# Of all parameters, as they are sent once for each choice; below the limits that follow they take 30 KiB.
MAX_BYTES = 64 * 1024
# What vLLM's model runner V2 has room for. It finds more only in the worker, and the engine dies of it. The
# checkpoint's own stop tokens are added to the request's.
MAX_ITEMS = {"logit_bias": 1024, "allowed_token_ids": 1024, "stop_token_ids": 120, "bad_words": 128}
MAX_BAD_WORDS_TOKENS = 1024
# vLLM looks for patterns of every length up to this after each token, in the engine's own loop.
MAX_PATTERN_TOKENS = 1024
_OWN = {"cache_salt", "session_id", "priority", "repetition_detection", "vllm_xargs"}
_NAMES = tuple(name for name in Sampling.__struct_fields__ if name not in _OWN)


class SamplingParamsEncoder:
    """Makes `SamplingParams` as they travel to an engine, which adds the checkpoint's stop tokens."""

    def __init__(self, defaults: Mapping[str, Any], max_model_len: int) -> None:
        """`defaults` are those of the checkpoint, by vLLM's names."""
        self._defaults = {name: defaults[name] for name in DEFAULTS if defaults.get(name) is not None}
        self._max_model_len = max_model_len
        # Most requests of a client sample alike, and vLLM's checks take longer than all others together.
        self._checked = lru_cache(maxsize=MAX_CACHED)(self._check)

    @classmethod
    def of_checkpoint(cls, folder: str, max_model_len: int) -> SamplingParamsEncoder:
        """Takes the defaults from the checkpoint's generation config, if it has one."""
        path = Path(folder, GENERATION_CONFIG)
        return cls(json.loads(path.read_bytes()) if path.exists() else {}, max_model_len)

    def params(self, sampling: Sampling, structural_tag: str | None = None) -> SamplingParams:
        """Returns the parameters without what depends on the prompt. They are shared, and not to be changed.

        Raises `BadRequestError` for values that vLLM refuses.
        """
        if sampling.seed is not None and not MIN_SEED <= sampling.seed <= MAX_SEED:
            raise BadRequestError(f"seed must be from {MIN_SEED} to {MAX_SEED}", "seed")
        try:
            encoded = msgspec.msgpack.encode(sampling)
        except OverflowError:
            raise _too_many_bits() from None
        is_small = len(encoded) <= MAX_CACHED_BYTES
        params = (self._checked if is_small else self._check)(encoded)
        if structural_tag is None:
            return params
        params = copy.copy(params)
        params.structured_outputs = StructuredOutputsParams(structural_tag=structural_tag)
        return params

    def _check(self, encoded: bytes) -> SamplingParams:
        sampling = msgspec.msgpack.decode(encoded, type=Sampling)
        _check_room(sampling, len(encoded))
        given = {name: value for name in _NAMES if (value := getattr(sampling, name)) is not None}
        try:
            params = SamplingParams.from_optional(
                # Set for each prompt in `encode`; any number will do for the checks.
                **{"max_tokens": self._max_model_len} | self._defaults | given,
                extra_args=dict(sampling.vllm_xargs) if sampling.vllm_xargs else None,
                repetition_detection=(
                    RepetitionDetectionParams(**sampling.repetition_detection)
                    if sampling.repetition_detection
                    else None
                ),
            )
        except VLLMClientError as error:
            raise client_error(error) from None
        except (ValueError, TypeError) as error:
            raise _refusal(str(error), _named_in(str(error))) from None
        try:
            msgspec.msgpack.encode(params)
        except OverflowError:  # a token of `logit_bias`, a text until now
            raise _too_many_bits() from None
        return params

    def encode(self, params: SamplingParams, seed_offset: int, num_prompt_tokens: int) -> bytes:
        """Returns the parameters of one sequence, in msgpack: with its seed, and no more than has room."""
        ours = copy.copy(params)
        room = self._max_model_len - num_prompt_tokens
        ours.max_tokens = min(params.max_tokens or room, room)
        if params.seed is not None:
            ours.seed = params.seed + seed_offset
        return msgspec.msgpack.encode(ours)


def _too_many_bits() -> BadRequestError:
    return BadRequestError("a number in the request has more than 64 bits", None)


def _check_room(sampling: Sampling, num_bytes: int) -> None:
    """Raises `BadRequestError` for more than the engine has room for."""
    for name, most in MAX_ITEMS.items():
        if len(getattr(sampling, name) or ()) > most:
            raise BadRequestError(
                f"{name} has {len(getattr(sampling, name))} entries; there may be {most}", name
            )
    if num_bytes > MAX_BYTES:
        raise BadRequestError(
            f"the sampling parameters take {num_bytes:,} bytes and may take {MAX_BYTES:,}", None
        )
    pattern_size = (sampling.repetition_detection or {}).get("max_pattern_size")
    if isinstance(pattern_size, int) and pattern_size > MAX_PATTERN_TOKENS:
        param = "repetition_detection.max_pattern_size"
        raise BadRequestError(f"{param} is {pattern_size} and may be {MAX_PATTERN_TOKENS}", param)
    if not sampling.bad_words:
        return
    encode = Vocabulary.load().encode
    # Each is forbidden at the beginning of a text and, as other tokens, in the middle of one.
    words = [prefix + word.lstrip() for word in sampling.bad_words for prefix in ("", " ")]
    if sum(len(encode(word)) for word in words) > MAX_BAD_WORDS_TOKENS:
        raise BadRequestError(
            f"bad_words has more than {MAX_BAD_WORDS_TOKENS} tokens, with and without a space before each",
            "bad_words",
        )


def client_error(error: VLLMClientError) -> BadRequestError:
    """Returns what vLLM says of a request that it refuses, without the value, which may be long."""
    message = str(error.args[0]) if error.args else str(error)
    parameter = getattr(error, "parameter", None)
    return _refusal(message, parameter if parameter in Sampling.__struct_fields__ else _named_in(message))


def _refusal(message: str, param: str | None) -> BadRequestError:
    if may_be_quoted(message):
        return BadRequestError(message, param)
    logger.warning("vLLM refuses a request, in words that no client is told: %s", message)
    return BadRequestError(f"vLLM does not accept {param or 'this request'}", param)


def _named_in(message: str) -> str | None:
    """Returns the parameter that a message of vLLM begins with, as most do."""
    name = message.partition(" ")[0].strip("`")
    return name if name in Sampling.__struct_fields__ else None
