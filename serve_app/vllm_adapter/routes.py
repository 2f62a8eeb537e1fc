"""The HTTP routes of `vllm serve`, over a `RemoteLLM`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial

from fastapi import FastAPI
from vllm.entrypoints.anthropic.api_router import attach_router as attach_messages
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.api_router import attach_router as attach_chat
from vllm.entrypoints.openai.completion.api_router import attach_router as attach_completions
from vllm.entrypoints.openai.models.api_router import attach_router as attach_models
from vllm.entrypoints.openai.responses.api_router import attach_router as attach_responses
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.instrumentator.basic import show_version
from vllm.entrypoints.serve.tokenize.api_router import attach_router as attach_tokenize
from vllm.utils.argparse_utils import FlexibleArgumentParser

from serve_app.vllm_adapter.chat_stream import ChatStreams
from serve_app.vllm_adapter.remote_llm import RemoteLLM

# What `vllm serve` needs to be told for gpt-oss; the reasoning parser is an engine argument.
TOOL_PARSER = "openai"


async def attach_api(app: FastAPI, engine: RemoteLLM, model_path: str, served_names: Iterable[str]) -> None:
    """Adds the OpenAI and Anthropic routes of `vllm serve` over `engine`, with vLLM's error bodies, to `app`.

    Left out on purpose: what administers one engine process (LoRA, profiling, scaling, sleep), SageMaker's
    routes and the token-level ones.
    """
    args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    args.model = model_path
    args.served_model_name = list(served_names)
    args.enable_auto_tool_choice = True
    args.tool_call_parser = TOOL_PARSER
    args.structured_outputs_config.reasoning_parser = (
        engine.vllm_config.structured_outputs_config.reasoning_parser
    )

    app.state.args = args
    app.state.server = None  # vLLM's error handler would stop a uvicorn server of its own here
    for attach in (
        attach_models,
        attach_chat,
        attach_completions,
        attach_responses,
        attach_messages,
        attach_tokenize,
    ):
        attach(app)
    app.add_api_route("/version", show_version)
    init_exception_handler(app)
    await init_app_state(engine, app.state, args, ("generate",))
    chat = app.state.openai_serving_chat
    chat.chat_completion_stream_generator = ChatStreams(chat)
    messages = app.state.anthropic_serving_messages
    messages.message_stream_converter = partial(_message_events, messages.message_stream_converter)


async def _message_events(
    convert: Callable[[AsyncGenerator[str]], AsyncGenerator[str]], chunks: AsyncGenerator[str]
) -> AsyncGenerator[str]:
    """Yields Anthropic's events for the chat stream `chunks`, and an error as an error.

    vLLM's converter takes an error of the chat stream for a malformed chunk, and tells the client of that.
    """
    error: str | None = None

    async def until_error() -> AsyncGenerator[str]:
        nonlocal error
        async for chunk in chunks:
            if chunk.startswith('data: {"error"'):
                error = chunk.removeprefix("data: ")
                return
            yield chunk

    async for event in convert(until_error()):
        yield event
    if error:
        yield f"event: error\ndata: {json.dumps({'type': 'error', **json.loads(error)})}\n\n"
