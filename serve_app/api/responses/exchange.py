"""Responses: a request's body to an `Exchange`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from serve_app.answers.offer import Offer
from serve_app.api.efforts import effort_of
from serve_app.api.exchange import Exchange, Grammar
from serve_app.api.fields import convert, quoted, without_nulls
from serve_app.api.responses.answer import AnswerOptions, ResponsesEncoder
from serve_app.api.responses.events import ReasoningConfig, Response, ResponseEvent
from serve_app.api.responses.formats import content_format, text_echo
from serve_app.api.responses.input import ReadInput, read_input
from serve_app.api.responses.items import ItemOptions
from serve_app.api.responses.request import ReasoningOptions, ResponsesRequest
from serve_app.api.responses.tools import Choice, Toolbox, choose
from serve_app.api.sampling import Sampling
from serve_app.api.sealing import Sealer
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Conversation, Effort, Instructions, Turn
from serve_app.harmony.grammar import structural_tag

# What `service_tier` may be here, and what it is called in the answer; all others are the default one.
TIERS = {"priority": "priority", "fast": "priority", "flex": "flex"}
ENCRYPTED_REASONING, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
# Those of OpenAI's that ask for parts of items which are never in an answer here.
INCLUDES = frozenset(
    {
        ENCRYPTED_REASONING,
        LOGPROBS,
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)
# A response header has to hold them.
MAX_WARNINGS = 8


def exchange(body: Mapping[str, Any], sealer: Sealer) -> Exchange[ResponseEvent]:
    """Returns what a request's body asks for. Raises `BadRequestError` for the first thing that is wrong.

    `sealer` reads the reasoning that it has sealed, and seals that of the answer if the request wants it.
    """
    request = convert(without_nulls(body), ResponsesRequest)
    _check_stateless(request)
    read = read_input(request.input, sealer)
    toolbox = Toolbox()
    toolbox.add(request.tools or (), "tools")
    for tools, place in read.tools:
        toolbox.add(tools, place)
    choice = choose(request.tool_choice, toolbox)
    # What goes on in the middle of a text cannot be a call.
    is_continued = read.is_continued and choice.mode != "required"
    effort = effort_of(request.reasoning.effort if request.reasoning else None, "reasoning.effort")
    includes = _includes(request.include)
    is_parallel = request.parallel_tool_calls is not False
    return Exchange(
        model=request.model,
        conversation=Conversation(
            turns=_turns(request, read),
            tools=tuple(toolbox.tools.values()) if choice.mode != "none" else (),
            effort=effort,
            is_continued=is_continued,
        ),
        offer=Offer(
            tools=choice.names,
            forbidden_tools=frozenset(toolbox.tools) - choice.names if choice.mode != "none" else frozenset(),
            is_parallel=is_parallel,
            stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
            keeps_stop_string=bool(request.include_stop_str_in_output),
            is_continued=is_continued,
        ),
        sampling=_sampling(request, LOGPROBS in includes or bool(request.top_logprobs)),
        new_encoder=partial(
            ResponsesEncoder,
            AnswerOptions(
                template=_template(request, toolbox, choice, effort),
                items=ItemOptions(
                    namespaced=toolbox.namespaced,
                    sealer=sealer if ENCRYPTED_REASONING in includes else None,
                    has_reasoning=request.include_reasoning is not False,
                ),
                num_top_logprobs=request.top_logprobs or 0,
            ),
        ),
        is_streamed=bool(request.stream),
        grammar=_grammar(request, toolbox, choice, is_parallel, is_continued),
        request_id=request.request_id,
        warnings=_warnings(request, [*toolbox.warnings, *read.warnings]),
    )


def input_tokens_body(num_tokens: int) -> dict[str, Any]:
    """Returns the answer of `POST /v1/responses/input_tokens`, whose body is read as that of a request."""
    return {"object": "response.input_tokens", "input_tokens": num_tokens}


def _check_stateless(request: ResponsesRequest) -> None:
    if request.previous_response_id is not None:
        raise BadRequestError(
            "previous_response_id refers to a stored response, and this service stores nothing: send the "
            "conversation as input",
            "previous_response_id",
            "previous_response_not_found",
        )
    if request.background:
        raise BadRequestError("background is not served here: this service stores nothing", "background")
    for param in ("conversation", "prompt", "previous_input_messages"):
        if getattr(request, param) is not None:
            raise BadRequestError(f"{param} is not served here: this service stores nothing", param)


def _includes(values: list[str] | None) -> frozenset[str]:
    for index, value in enumerate(values or ()):
        if value not in INCLUDES:
            param = f"include[{index}]"
            raise BadRequestError(
                f"{param} is {quoted(value)}; it must be one of {', '.join(sorted(INCLUDES))}", param
            )
    return frozenset(values or ())


def _turns(request: ResponsesRequest, read: ReadInput) -> tuple[Turn, ...]:
    if request.instructions:
        return (Instructions(request.instructions), *read.turns)
    return tuple(read.turns)


def _grammar(
    request: ResponsesRequest, toolbox: Toolbox, choice: Choice, is_parallel: bool, is_continued: bool
) -> Grammar | None:
    content, param = content_format(request) or (None, "tools")
    callable_tools = [tool for name, tool in toolbox.tools.items() if name in choice.names]
    try:
        tag = structural_tag(
            callable_tools, choice.mode, content, is_parallel=is_parallel, is_continued=is_continued
        )
    except BadRequestError as error:
        # The grammar does not know what the field is called here.
        raise BadRequestError(f"{param}: {error}", error.param or param, error.code) from None
    if tag is None:
        return None
    if not is_continued:
        toolbox.check_grammar(choice.names)
    return Grammar(tag, param)


def _sampling(request: ResponsesRequest, has_logprobs: bool) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        max_tokens=request.max_output_tokens,
        min_tokens=request.min_tokens,
        logprobs=(request.top_logprobs or 0) if has_logprobs else None,
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


def _template(request: ResponsesRequest, toolbox: Toolbox, choice: Choice, effort: Effort) -> Response:
    """Returns the response as far as the request determines it."""
    reasoning = request.reasoning or ReasoningOptions()
    return Response(
        id=request.request_id or "",
        created_at=0,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        metadata=request.metadata or {},
        model="",
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=ReasoningConfig(effort, reasoning.summary or reasoning.generate_summary),
        safety_identifier=request.safety_identifier,
        service_tier=TIERS.get(request.service_tier or "", "default"),
        temperature=1.0 if request.temperature is None else request.temperature,
        text=text_echo(request.text),
        tool_choice=choice.echo,
        tools=toolbox.echo,
        top_logprobs=request.top_logprobs or 0,
        top_p=1.0 if request.top_p is None else request.top_p,
        user=request.user,
    )


def _warnings(request: ResponsesRequest, warnings: list[str]) -> tuple[str, ...]:
    if request.truncation == "auto":
        warnings.insert(0, "truncation: auto: not served")
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS - 1 :] = [f"{len(warnings) - MAX_WARNINGS + 1} more"]
    return tuple(warnings)
