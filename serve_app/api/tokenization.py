"""vLLM's `/tokenize` and `/detokenize`: texts and conversations to tokens, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serve_app.api.chat import exchange as chat
from serve_app.api.fields import convert
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Conversation
from serve_app.harmony.tokens import FIRST_SPECIAL, START, Vocabulary


class TokenizeRequest(msgspec.Struct, frozen=True):
    """A text, or the messages and what belongs to them of a Chat Completions request."""

    prompt: str | None = None
    messages: list[Any] | None = None
    model: str | None = None
    tools: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    """Of no effect: gpt-oss adds none."""
    return_token_strs: bool | None = None


class TokenizeResponse(msgspec.Struct, frozen=True):
    """The tokens of a prompt."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None
    """As they stand in the vocabulary: a character for each byte, as byte-level BPE writes them."""


class DetokenizeRequest(msgspec.Struct, frozen=True):
    """Token ids."""

    tokens: list[Annotated[int, Meta(ge=0)]]
    model: str | None = None


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """Their text, special tokens by name."""

    prompt: str


def tokenize_body(
    body: Mapping[str, Any],
    encode: Callable[[str], list[int]],
    render_chat: Callable[[Conversation], list[int]],
    max_model_len: int,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Returns the answer to a request of `/tokenize`. Raises `BadRequestError`.

    `encode` makes tokens of a text, special ones where their names stand in it. Messages are rendered as for
    an answer.
    """
    request = convert(body, TokenizeRequest)
    if (request.prompt is None) == (request.messages is None):
        param = "prompt" if request.prompt is None else "messages"
        raise BadRequestError("either prompt or messages must be given", param)
    tokens = _render(body, render_chat) if request.prompt is None else encode(request.prompt)
    token_strs = [_written(vocabulary, token) for token in tokens] if request.return_token_strs else None
    return msgspec.structs.asdict(TokenizeResponse(len(tokens), max_model_len, tokens, token_strs))


def detokenize_body(body: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the answer to a request of `/detokenize`. Raises `BadRequestError`."""
    tokens = convert(body, DetokenizeRequest).tokens
    limit = len(vocabulary.token_bytes)
    if tokens and max(tokens) >= limit:
        index = next(index for index, token in enumerate(tokens) if token >= limit)
        param = f"tokens[{index}]"
        raise BadRequestError(f"{param} is {tokens[index]}; token ids are from 0 to {limit - 1}", param)
    text = b"".join(map(vocabulary.bytes_of, tokens)).decode(errors="replace")
    return msgspec.structs.asdict(DetokenizeResponse(text))


def _render(body: Mapping[str, Any], render_chat: Callable[[Conversation], list[int]]) -> list[int]:
    is_open = body.get("add_generation_prompt") is False and not body.get("continue_final_message")
    asked = {name: value for name, value in body.items() if name != "add_generation_prompt" or not is_open}
    conversation = chat.exchange(asked).conversation
    assert conversation is not None
    tokens = render_chat(conversation)
    if is_open:
        # What has the model answer is the last header, up to its role.
        del tokens[len(tokens) - 1 - tokens[::-1].index(START) :]
    return tokens


def _written(vocabulary: Vocabulary, token: int) -> str:
    content = vocabulary.bytes_of(token)
    return (
        content.decode()
        if token >= FIRST_SPECIAL
        else content.decode("latin-1").translate(_byte_characters())
    )


@cache
def _byte_characters() -> dict[int, str]:
    """The characters that GPT-2's vocabulary writes for bytes: itself, or the next from U+0100 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(0x100 + number) for number, byte in enumerate(hidden)}
