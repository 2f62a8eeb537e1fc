"""What crosses the process boundary between an ingress and an engine replica."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from serve_app.transport.curve import CurveAddress


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence to generate: token ids in.

    A request with `n > 1` is sent as `n` of these, so that what Serve counts as ongoing is what the
    engine's scheduler counts as running.
    """

    request_id: str
    """Unique over all ingress replicas and for ever: the ingress adds random characters to the public id."""
    prompt_token_ids: list[int]
    """Not to be changed: it is encoded once for all requests that have this list."""
    sampling_params: bytes
    """vLLM's `SamplingParams` as msgpack. Opaque here, so that this module needs no vLLM.

    They are those of the whole answer: limits and penalties count `output_token_ids` too.
    """
    reply_to: CurveAddress
    """Where the tokens go."""
    sequence: int
    """The ingress's number of this sequence, which the frames carry."""
    output_token_ids: list[int] = []
    """The answer so far, where another engine has begun it: this one goes on behind these tokens."""
    priority: int = 0
    cache_salt: str | None = None
    session_id: str | None = None

    def __reduce__(self) -> tuple[Callable[[bytes], GenerateRequest], tuple[bytes]]:
        # Serve pickles it. Object by object that takes twice as long, at both ends, as to find and call this.
        return decode, (_requests.encode(self),)


_ENCODER = msgspec.msgpack.Encoder()


class _RequestEncoder:
    """Encodes requests, and the prompt of several in a row once: choices of a request have the same list."""

    def __init__(self) -> None:
        self._prompt: list[int] = []
        self._encoded = msgspec.Raw(_ENCODER.encode(self._prompt))

    def encode(self, request: GenerateRequest) -> bytes:
        if request.prompt_token_ids is not self._prompt:
            self._prompt = request.prompt_token_ids
            self._encoded = msgspec.Raw(_ENCODER.encode(self._prompt))
        return _ENCODER.encode(replace(request, prompt_token_ids=self._encoded))


_requests = _RequestEncoder()
_DECODER = msgspec.msgpack.Decoder(GenerateRequest)


def decode(content: bytes) -> GenerateRequest:
    """Returns what was pickled."""
    return _DECODER.decode(content)
