"""Chat Completions: a request's body to an `Exchange`."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from serve_app.answers.offer import Offer
from serve_app.api.chat.answer import AnswerOptions, ChatEncoder
from serve_app.api.chat.formats import content_format
from serve_app.api.chat.messages import turns_of
from serve_app.api.chat.request import AssistantMessage, ChatRequest
from serve_app.api.chat.response import ChatAnswer, ChatChunk, ChatEvent
from serve_app.api.chat.tools import ToolOffer, tool_offer
from serve_app.api.efforts import effort_of
from serve_app.api.exchange import Exchange, Grammar
from serve_app.api.fields import convert
from serve_app.api.sampling import Sampling
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import AssistantText, Conversation
from serve_app.harmony.grammar import structural_tag

# Those that `service_tier` may be; all others are the default one.
TIERS = ("priority", "flex")
# Refused rather than ignored: the answer would not be what the client has asked for.
NOT_SERVED = ("audio", "prompt_logprobs", "truncate_prompt_tokens", "use_beam_search", "web_search_options")


def exchange(body: dict[str, Any]) -> Exchange[ChatEvent]:
    """Returns what a request's body asks for. Raises `BadRequestError` for the first thing that is wrong."""
    try:
        return _exchange(body)
    except RecursionError:
        # What could be parsed may still be too deep for what comes after.
        raise BadRequestError("the request body is nested too deeply", None) from None


def _exchange(body: dict[str, Any]) -> Exchange[ChatEvent]:
    _check_served(body)
    request = convert(body, ChatRequest)
    if not request.messages:
        raise BadRequestError("messages must not be empty", "messages")
    offer = tool_offer(request)
    is_parallel = request.parallel_tool_calls is not False
    conversation = _conversation(request, offer)
    return Exchange(
        model=request.model or None,
        conversation=conversation,
        offer=Offer(
            tools=offer.names,
            forbidden_tools=offer.forbidden_names,
            is_parallel=is_parallel,
            stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
            keeps_stop_string=bool(request.include_stop_str_in_output),
            is_continued=conversation.is_continued,
        ),
        sampling=_sampling(request),
        new_encoder=partial(ChatEncoder, _answer_options(request, conversation)),
        is_streamed=bool(request.stream),
        num_choices=request.n or 1,
        grammar=_grammar(request, offer, is_parallel, conversation.is_continued),
        request_id=request.request_id or None,
    )


def _check_served(body: dict[str, Any]) -> None:
    for name in NOT_SERVED:
        value = body.get(name)
        if value is not None and value is not False:
            raise BadRequestError(f"{name} is not served here", name)
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise BadRequestError('modalities other than ["text"] are not served here', "modalities")
    if body.get("echo") is True and body.get("continue_final_message") is not True:
        raise BadRequestError("echo is served with continue_final_message only", "echo")


def _conversation(request: ChatRequest, offer: ToolOffer) -> Conversation:
    turns = turns_of(request.messages)
    is_continued = bool(request.continue_final_message)
    if is_continued:
        param = "continue_final_message"
        if request.add_generation_prompt:
            raise BadRequestError(f"{param} and add_generation_prompt cannot both be true", param)
        if offer.choice == "required":
            raise BadRequestError(f"{param} cannot be true when a tool must be called", param)
        last = request.messages[-1]
        # A message without text makes no turn, so the last turn may be another message's.
        own = turns_of([last]) if isinstance(last, AssistantMessage) else ()
        if not own or not isinstance(own[-1], AssistantText):
            raise BadRequestError(f"{param} needs a text of the assistant as the last message", param)
        turns = (*turns[:-1], AssistantText(own[-1].text, "final"))
    elif request.add_generation_prompt is False:
        param = "add_generation_prompt"
        raise BadRequestError(f"{param} can only be false with continue_final_message", param)
    if request.reasoning_effort is None and request.reasoning:
        effort = effort_of(request.reasoning.effort, "reasoning.effort")
    else:
        effort = effort_of(request.reasoning_effort, "reasoning_effort")
    return Conversation(turns, offer.shown, effort, is_continued)


def _grammar(request: ChatRequest, offer: ToolOffer, is_parallel: bool, is_continued: bool) -> Grammar | None:
    asked = content_format(request)
    content, param = asked or (None, offer.param)
    try:
        tag = structural_tag(
            offer.callable, offer.choice, content, is_parallel=is_parallel, is_continued=is_continued
        )
    except BadRequestError as error:
        # The grammar does not know what the field is called here.
        raise BadRequestError(f"{param}: {error}", error.param or param, error.code) from None
    if tag is None:
        return None
    if not is_continued:
        offer.check_grammar()
    return Grammar(tag, param)


def _sampling(request: ChatRequest) -> Sampling:
    limit = request.max_completion_tokens
    logprob_token_ids = request.logprob_token_ids or None
    if not request.logprobs:
        for param in ("top_logprobs", "logprob_token_ids"):
            if getattr(request, param):
                raise BadRequestError(f"{param} needs logprobs to be true", param)
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        max_tokens=request.max_tokens if limit is None else limit,
        min_tokens=request.min_tokens,
        # vLLM gives those of the tokens that are named in place of the likeliest.
        logprobs=(request.top_logprobs or 0) if request.logprobs and not logprob_token_ids else None,
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


def _answer_options(request: ChatRequest, conversation: Conversation) -> AnswerOptions:
    options = request.stream_options
    if options and not request.stream and (options.include_usage or options.continuous_usage_stats):
        raise BadRequestError("stream_options needs stream to be true", "stream_options")
    last = conversation.turns[-1] if request.echo else None
    # The reasoning's tokens would tell what is hidden.
    hides_reasoning = request.include_reasoning is False
    return AnswerOptions(
        num_choices=request.n or 1,
        request_id=request.request_id or None,
        service_tier=request.service_tier if request.service_tier in TIERS else "default",
        has_reasoning=not hides_reasoning,
        has_usage=bool(options and options.include_usage) or not request.stream,
        has_running_usage=bool(options and options.include_usage and options.continuous_usage_stats),
        num_top_logprobs=None if request.logprob_token_ids else request.top_logprobs or 0,
        has_token_names=not request.return_tokens_as_token_ids,
        has_prompt_token_ids=bool(request.return_token_ids),
        has_token_ids=bool(request.return_token_ids) and not hides_reasoning,
        echoed=last.text if isinstance(last, AssistantText) else "",
    )


def request_schema() -> dict[str, Any]:
    """Returns the JSON schema of a body."""
    return msgspec.json.schema(ChatRequest)


def answer_schema() -> dict[str, Any]:
    """Returns the JSON schema of an answer that is not streamed."""
    return msgspec.json.schema(ChatAnswer)


def chunk_schema() -> dict[str, Any]:
    """Returns the JSON schema of a stream's events."""
    return msgspec.json.schema(ChatChunk)
