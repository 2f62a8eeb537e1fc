"""OpenAI's legacy Completions: prompts as they are, and texts that go on from them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from serve_app.answers.offer import PlainText
from serve_app.api.chat.formats import content_format
from serve_app.api.completions.answer import Chunk, CompletionEncoder, Shape
from serve_app.api.completions.request import MAX_SEQUENCES, CompletionRequest
from serve_app.api.completions.response import Completion, CompletionChunk
from serve_app.api.exchange import Exchange, Grammar, Start
from serve_app.api.fields import convert
from serve_app.api.sampling import Sampling
from serve_app.errors import BadRequestError
from serve_app.harmony.content_format import xgrammar_format

# OpenAI's, of times when that was much.
DEFAULT_MAX_TOKENS = 16

TokenIds = list[int]


class Encode(Protocol):
    """Makes tokens of a prompt, special ones where their names stand in it."""

    def __call__(self, text: str, /, *, max_tokens: int | None = ...) -> TokenIds:
        """Returns the tokens. Where there are more than `max_tokens`, some of the last may be missing.

        Left out, it may be what the model's context holds: what is longer is refused anyway.
        """


def exchange(body: dict[str, Any], encode: Encode, vocabulary_size: int) -> Exchange[Chunk]:
    """Returns what a request's body asks for. Raises `BadRequestError` for the first thing that is wrong.

    Token ids are below `vocabulary_size`.
    """
    for name in ("use_beam_search", "prompt_embeds"):
        if body.get(name):
            raise BadRequestError(f"{name} is not served here", name)
    if body.get("prompt") is None:
        raise BadRequestError("prompt is missing", "prompt")
    request = convert(body, CompletionRequest)
    num_choices = request.n or 1
    if request.best_of not in (None, num_choices):
        raise BadRequestError("best_of can only be as large as n here", "best_of")
    if request.suffix:
        raise BadRequestError("suffix is not served here", "suffix")
    prompts = _prompts(request, encode, vocabulary_size)
    if len(prompts) * num_choices > MAX_SEQUENCES:
        param = "prompt" if len(prompts) > MAX_SEQUENCES else "n"
        raise BadRequestError(
            f"{len(prompts)} prompts times n ({num_choices}) is more than {MAX_SEQUENCES}", param
        )
    # Before the encoder is: both look at fields that depend on each other.
    sampling = _sampling(request)
    shape = _shape(request, sampling, prompts, num_choices)
    return Exchange(
        model=request.model,
        conversation=None,
        offer=_plain_text(request),
        sampling=sampling,
        new_encoder=partial(_new_encoder, shape, request.request_id),
        prompts=prompts,
        is_streamed=bool(request.stream),
        num_choices=num_choices,
        grammar=_grammar(request),
        request_id=request.request_id or None,
    )


def _new_encoder(shape: Shape, request_id: str | None, start: Start) -> CompletionEncoder:
    return CompletionEncoder(shape, start, f"cmpl-{request_id or uuid.uuid4().hex}")


def _prompts(request: CompletionRequest, encode: Encode, vocabulary_size: int) -> tuple[Sequence[int], ...]:
    prompt = request.prompt
    # A list of numbers is one prompt.
    is_batch = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    if is_batch and len(prompt) > MAX_SEQUENCES:
        raise BadRequestError(f"prompt has {len(prompt)} prompts; there may be {MAX_SEQUENCES}", "prompt")
    places = (
        [(f"prompt[{index}]", item) for index, item in enumerate(prompt)]
        if is_batch
        else [("prompt", prompt)]
    )
    prompts = []
    for param, item in places:
        if isinstance(item, str):
            # What is cut must be known to its end.
            is_cut = request.truncate_prompt_tokens is not None
            tokens = list(encode(item, max_tokens=None) if is_cut else encode(item))
        else:
            tokens = convert(item, TokenIds, param)
            # In C, since there may be a hundred thousand.
            if tokens and (min(tokens) < 0 or max(tokens) >= vocabulary_size):
                place = next(i for i, token in enumerate(tokens) if not 0 <= token < vocabulary_size)
                raise BadRequestError(
                    f"{param}[{place}] is {tokens[place]}; token ids are from 0 to {vocabulary_size - 1}",
                    f"{param}[{place}]",
                )
        if not tokens:
            raise BadRequestError(f"{param} must not be empty", param)
        if limit := request.truncate_prompt_tokens:
            tokens = tokens[:limit] if request.truncation_side == "right" else tokens[-limit:]
        prompts.append(tokens)
    return tuple(prompts)


def _plain_text(request: CompletionRequest) -> PlainText:
    stop = request.stop or ()
    return PlainText(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        keeps_stop_string=bool(request.include_stop_str_in_output),
        skips_special_tokens=request.skip_special_tokens is not False,
        stop_tokens=frozenset(request.stop_token_ids or ()),
        min_tokens=request.min_tokens or 0,
    )


def _grammar(request: CompletionRequest) -> Grammar | None:
    asked = content_format(request)
    if asked is None:
        return None
    content, param = asked
    try:
        text = xgrammar_format(content)
    except BadRequestError as error:
        raise BadRequestError(f"{param}: {error}", param) from None
    tag = {"type": "structural_tag", "format": text}
    return Grammar(msgspec.json.encode(tag).decode(), param)


def _sampling(request: CompletionRequest) -> Sampling:
    max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if not max_tokens and not request.echo:
        raise BadRequestError("max_tokens can only be 0 with echo", "max_tokens")
    logprob_token_ids = request.logprob_token_ids or None
    if logprob_token_ids and request.logprobs is None:
        raise BadRequestError("logprob_token_ids needs logprobs", "logprob_token_ids")
    prompt_logprobs = request.prompt_logprobs
    if prompt_logprobs is None and request.echo:
        prompt_logprobs = request.logprobs
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        max_tokens=max_tokens or 1,
        min_tokens=request.min_tokens,
        logprobs=None if logprob_token_ids else request.logprobs,
        prompt_logprobs=prompt_logprobs,
        logprob_token_ids=logprob_token_ids,
        logit_bias=request.logit_bias,
        allowed_token_ids=request.allowed_token_ids,
        bad_words=request.bad_words,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=bool(request.ignore_eos),
        thinking_token_budget=request.thinking_token_budget,
        repetition_detection=request.repetition_detection,
        vllm_xargs=request.vllm_xargs,
        cache_salt=request.cache_salt,
        session_id=request.session_id,
        priority=request.priority or 0,
    )


def _shape(
    request: CompletionRequest, sampling: Sampling, prompts: tuple[Sequence[int], ...], num_choices: int
) -> Shape:
    options = request.stream_options
    includes_usage = bool(options and options.include_usage)
    includes_all_usage = bool(options and options.continuous_usage_stats)
    if not request.stream and (includes_usage or includes_all_usage):
        raise BadRequestError("stream_options needs stream to be true", "stream_options")
    return Shape(
        prompts=prompts,
        num_choices=num_choices,
        echoes=bool(request.echo),
        generates=request.max_tokens != 0,
        shows_logprobs=request.logprobs is not None,
        num_alternatives=None if request.logprob_token_ids else request.logprobs,
        shows_prompt_logprobs=sampling.prompt_logprobs is not None,
        shows_token_ids=bool(request.return_token_ids),
        names_tokens_by_id=bool(request.return_tokens_as_token_ids),
        skips_special_tokens=request.skip_special_tokens is not False,
        includes_usage=includes_usage,
        includes_all_usage=bool(
            request.stream and includes_usage and options and options.continuous_usage_stats
        ),
        service_tier=request.service_tier,
    )


def request_schema() -> dict[str, Any]:
    """Returns the JSON schema of a body."""
    return msgspec.json.schema(CompletionRequest)


def answer_schema() -> dict[str, Any]:
    """Returns the JSON schema of an answer that is not streamed."""
    return msgspec.json.schema(Completion)


def chunk_schema() -> dict[str, Any]:
    """Returns the JSON schema of a stream's events."""
    return msgspec.json.schema(CompletionChunk)
