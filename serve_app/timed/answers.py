"""What the timed engine says: a harmony answer of words that are one token and five characters each."""

from __future__ import annotations

import zlib

import msgspec

from serve_app.transport.frames import Parts
from serve_app.transport.requests import GenerateRequest

# Ids of o200k_harmony: <|channel|>final<|message|>, which an answer begins with, and <|return|>, its end.
HEADER = [200005, 17196, 200008]
RETURN = 200002
# " time", " work", " year" and so on: a client counts tokens by characters.
WORDS = [1058, 1101, 1284, 2615, 1803, 997, 4307, 2237, 2543, 1308, 5030, 2195, 2392, 8733, 8165, 6452]
WORD_CHARACTERS = 5
# The length of an answer that nothing limits lies between these.
MIN_TOKENS, MAX_TOKENS = 100, 300

# vLLM's FinishReason, as it travels.
STOP, LENGTH = 0, 1


class Output(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The leading fields of vLLM's `EngineCoreOutput`, which is encoded by position."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: None = None
    new_prompt_logprobs_tensors: None = None
    pooling_output: None = None
    finish_reason: int | None = None


class Limits(msgspec.Struct):
    """What the timed engine heeds of vLLM's `SamplingParams`. vLLM sends no defaults, so they stand here."""

    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False


def encode(outputs: list[Output]) -> Parts:
    """Returns the parts of a frame with these outputs, as vLLM encodes them."""
    return [msgspec.msgpack.encode(outputs)]


def merge(first: Output, second: Output) -> Output:
    """Returns two successive outputs of a request as one."""
    tokens = first.new_token_ids + second.new_token_ids
    return Output(first.request_id, tokens, finish_reason=second.finish_reason)


class Vocabulary:
    """Words in a fixed order, as many as an answer can have."""

    def __init__(self, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self.words = WORDS * (max_model_len // len(WORDS) + 2)


class Answer:
    """The answer to a request, piece by piece. The same prompt and limits always get the same one.

    It ends with LENGTH at the request's `max_tokens`. Where there is no limit, for which the ingress sends
    what is left of `max_model_len`, it ends with <|return|> after a number of tokens that the prompt decides.
    """

    __slots__ = ("_request_id", "_shift", "_words", "finish_reason", "length", "position")

    def __init__(self, request: GenerateRequest, vocabulary: Vocabulary) -> None:
        """Raises `msgspec.MsgspecError` where the sampling parameters are not vLLM's."""
        limits = msgspec.msgpack.decode(request.sampling_params, type=Limits)
        seed = zlib.crc32(msgspec.msgpack.encode(request.prompt_token_ids))
        room = max(1, vocabulary.max_model_len - len(request.prompt_token_ids))
        self.length, self.finish_reason = min(limits.max_tokens or room, room), LENGTH
        if self.length == room and not limits.ignore_eos:
            natural_length = max(limits.min_tokens, MIN_TOKENS + seed % (MAX_TOKENS - MIN_TOKENS))
            if natural_length <= room:
                self.length, self.finish_reason = natural_length, STOP
        # Another engine, which says the same, may have begun it.
        self.position = len(request.output_token_ids)
        self._request_id = request.request_id
        self._words = vocabulary.words
        # Answers to different prompts begin with different words, so that a mix-up would be seen.
        self._shift = seed % len(WORDS)

    @property
    def is_complete(self) -> bool:
        """Whether everything has been taken."""
        return self.position == self.length

    def take(self, num_tokens: int) -> Output:
        """Returns the next tokens, fewer at the end, with the finish reason in the last piece."""
        begin, end = self.position, min(self.position + num_tokens, self.length)
        self.position = end
        if begin >= len(HEADER):
            first = self._shift + begin - len(HEADER)
            tokens = self._words[first : first + end - begin]
        else:
            tokens = (HEADER + self._words[self._shift : self._shift + end])[begin:end]
        if end < self.length:
            return Output(self._request_id, tokens)
        if self.finish_reason == STOP:
            tokens[-1] = RETURN
        return Output(self._request_id, tokens, finish_reason=self.finish_reason)
