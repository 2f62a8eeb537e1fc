"""Anthropic's Messages: a request's body to an exchange.

The effort is what `output_config.effort` says; else `thinking` decides: low if it is disabled (this model
always thinks, and that is the least), by its budget if it has one, else medium.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.answers.offer import Offer
from serve_app.api.efforts import effort_of
from serve_app.api.exchange import Encoder, Exchange, Grammar, Start
from serve_app.api.messages.answer import Display, MessagesEncoder, View
from serve_app.api.messages.errors import error_body as error_body
from serve_app.api.messages.events import StreamEvent
from serve_app.api.messages.request import MessagesRequest, OutputFormat, Thinking, read_request
from serve_app.api.messages.tools import ToolOffer, is_anthropic, tool_offer
from serve_app.api.messages.turns import check_end, goes_on, instructions, turns_of
from serve_app.api.sampling import Sampling
from serve_app.api.schemas.validation import check_format_schema
from serve_app.api.sealing import Sealer, UnsealError
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Conversation, Effort, Turn
from serve_app.harmony.grammar import ContentFormat, structural_tag

# Budgets in tokens below which little and medium effort is meant: Claude Code's "think" is 4,000, its "think
# hard" 10,000.
LOW_BUDGET, MEDIUM_BUDGET = 4096, 16384


def exchange(
    body: Mapping[str, Any], sealer: Sealer | None = None, *, counting: bool = False
) -> Exchange[StreamEvent]:
    """Returns the exchange of a body. Raises `BadRequestError`.

    With `sealer`, signatures of thinking blocks without text hold it. With `counting`, the body is one of
    `count_tokens`, and nothing will be generated.
    """
    request = read_request(body, counting)
    if request.mcp_servers:
        raise BadRequestError("mcp_servers: MCP servers are not called from here", "mcp_servers")
    tools = tool_offer(request)
    turns, is_continued = _turns(request, sealer, counting)
    offer = Offer(
        tools=frozenset(tool.name for tool in tools.callable),
        forbidden_tools=frozenset(tool.name for tool in tools.shown if tool not in tools.callable),
        is_parallel=tools.is_parallel,
        stop=tuple(request.stop_sequences),
        is_continued=is_continued,
    )
    view = _view(request)

    def new_encoder(start: Start) -> Encoder[StreamEvent]:
        return MessagesEncoder(start, view, sealer)

    return Exchange(
        model=request.model,
        conversation=Conversation(tuple(turns), tools.shown, _effort(request), is_continued),
        offer=offer,
        sampling=Sampling(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_tokens,
            vllm_xargs=request.vllm_xargs,
            cache_salt=request.cache_salt,
        ),
        new_encoder=new_encoder,
        is_streamed=request.stream,
        grammar=None if counting else _grammar(request, tools, is_continued),
        warnings=tuple(_warnings(request)),
    )


def count_body(num_tokens: int) -> dict[str, Any]:
    """Returns the answer of `count_tokens`."""
    return {"input_tokens": num_tokens}


def _turns(request: MessagesRequest, sealer: Sealer | None, counting: bool) -> tuple[list[Turn], bool]:
    def unseal(signature: str) -> str | None:
        try:
            return sealer.unseal(signature) if sealer else None
        except UnsealError:
            return None  # of another service's signature nothing can be read

    turns = turns_of(request.messages, unseal)
    if not turns:
        raise BadRequestError("messages: there is nothing in them", "messages")
    if not counting:
        check_end(request.messages)
    return [*instructions(request.system or ""), *turns], goes_on(request.messages)


def _warnings(request: MessagesRequest) -> Iterator[str]:
    for index, tool in enumerate(request.tools):
        if is_anthropic(tool):
            yield f"tools[{index}] left out: {tool.type}"
    if request.context_management:
        yield "context_management left out"
    if request.container is not None:
        yield "container left out"


def _grammar(request: MessagesRequest, tools: ToolOffer, is_continued: bool) -> Grammar | None:
    output, param = _format(request)
    if is_continued and (output or tools.choice == "required"):
        param = param if output else "tool_choice"
        raise BadRequestError(
            f"{param}: an answer that goes on with the assistant's text cannot be held to it",
            param,
        )
    content = None
    if output:
        check_format_schema(output.schema, f"{param}.schema")
        content = ContentFormat("json_schema", output.schema)
    else:
        param = "tools"
    try:
        tag = structural_tag(
            tools.callable, tools.choice, content, is_parallel=tools.is_parallel, is_continued=is_continued
        )
    except BadRequestError as error:
        # The grammar does not know what the field is called here.
        raise BadRequestError(f"{param}: {error}", error.param or param, error.code) from None
    if tag is None:
        return None
    schemas = {tool.name: tool.parameters for tool in tools.callable}
    for index, one in enumerate(request.tools):
        if one.name in schemas:
            check_format_schema(schemas[one.name], f"tools[{index}].input_schema")
    return Grammar(tag, param)


def _format(request: MessagesRequest) -> tuple[OutputFormat | None, str]:
    if request.output_config.format:
        return request.output_config.format, "output_config.format"
    return request.output_format, "output_format"


def _effort(request: MessagesRequest) -> Effort:
    if request.output_config.effort is not None:
        return effort_of(request.output_config.effort, "output_config.effort")
    if request.effort is not None:
        return effort_of(request.effort, "effort")
    thinking = request.thinking
    if thinking and thinking.type == "disabled":
        return "low"
    if thinking and thinking.budget_tokens is not None:
        return _effort_of_budget(thinking.budget_tokens)
    return effort_of(None, "effort")


def _effort_of_budget(budget_tokens: int) -> Effort:
    if budget_tokens < LOW_BUDGET:
        return "low"
    return "medium" if budget_tokens < MEDIUM_BUDGET else "high"


def _view(request: MessagesRequest) -> View:
    return View(
        display=_display(request.thinking),
        eager_tools=frozenset(t.name for t in request.tools if t.name and t.eager_input_streaming),
        service_tier="priority" if request.service_tier == "priority" else "standard",
    )


def _display(thinking: Thinking | None) -> Display:
    if thinking is None or thinking.type == "disabled":
        return Display.NOTHING
    return Display.SIGNATURE if thinking.display == "omitted" else Display.TEXT
