"""Which token sequences an answer may consist of: an xgrammar structural tag over whole harmony answers.

The prompt ends in `<|start|>assistant`. What follows is in one of these forms, and in none that the reader
could take for something else:

    thoughts content                 thought  <|channel|>analysis<|message|> ... <|end|><|start|>assistant
    thoughts preambles call          preamble <|channel|>commentary<|message|> ... <|end|><|start|>assistant
    thoughts preambles call call ..

Markers are matched as tokens, not as text that spells them. Tokens that end an answer (`<|return|>`,
`<|call|>`) are in no grammar: xgrammar allows them when, and only when, the rest is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from serve_app.harmony.content_format import ANY_OBJECT, JSON_KINDS, ContentFormat, Format, xgrammar_format
from serve_app.harmony.conversation import Tool
from serve_app.harmony.tokens import CHANNEL, CONSTRAIN, END, MESSAGE, START

__all__ = ["ContentFormat", "ToolChoice", "structural_tag"]

ToolChoice = Literal["auto", "none", "required"]

# A schema with one of these says elsewhere of what type a value is.
_SAYS_MORE = frozenset({"$ref", "allOf", "anyOf", "const", "enum", "oneOf"})


def structural_tag(
    tools: Sequence[Tool],
    tool_choice: ToolChoice,
    content: ContentFormat | None = None,
    *,
    is_parallel: bool = True,
    is_continued: bool = False,
) -> str | None:
    """Returns the structural tag as JSON, or None where the answer is free.

    `tools` are those that may be called: for a forced function that one alone, with `required`. With
    `content` and `auto`, the answer is either a call or a text of that format. A continued text goes on in
    the format, and no call can follow.
    Raises `BadRequestError`, without a field's name, for a format that is none.
    """
    if is_continued:
        return None if content is None else _json(_sequence(xgrammar_format(content), _optional(_token(END))))
    if not tools or tool_choice == "none":
        return None if content is None else _json(_sequence(_star(_THOUGHT), _final(content)))
    if tool_choice == "required":
        return _json(_sequence(_star(_or(_THOUGHT, _PREAMBLE)), _calls(tools, is_parallel)))
    if content is None:
        return None
    # A preamble is text too. It may only stand before a call, or the text would not be of the format.
    calls = _sequence(_star(_or(_THOUGHT, _PREAMBLE)), _calls(tools, is_parallel))
    return _json(_or(_sequence(_star(_THOUGHT), _final(content)), calls))


def _final(content: ContentFormat) -> Format:
    header = [_token(CHANNEL), _text("final")]
    if content.kind in JSON_KINDS:
        header.append(_optional(_sequence(_text(" "), _token(CONSTRAIN), _text("json"))))
    return _sequence(*header, _token(MESSAGE), xgrammar_format(content), _optional(_token(END)))


def _calls(tools: Sequence[Tool], is_parallel: bool) -> Format:
    call = _or(*map(_call, tools))
    if not is_parallel:
        return _sequence(call, _optional(_token(END)))
    return _sequence(call, _star(_sequence(_token(END), *_NEXT, call)), _optional(_token(END)))


def _call(tool: Tool) -> Format:
    recipient = _text(f" to=functions.{tool.name}")
    channel = [_token(CHANNEL), _text("commentary")]
    return _sequence(
        # The recipient may stand in the role's part of the header or in the channel's.
        _or(_sequence(*channel, recipient), _sequence(recipient, *channel)),
        _optional(_sequence(_text(" "), _token(CONSTRAIN), _text("json"))),
        _token(MESSAGE),
        {"type": "json_schema", "json_schema": _parameters(tool)},
    )


def _parameters(tool: Tool) -> Mapping[str, Any]:
    """The schema of the arguments, which are an object whether it says so or not."""
    schema = tool.parameters or ANY_OBJECT
    kind = schema.get("type")
    if kind == "object" or (kind is None and schema.keys() & _SAYS_MORE):
        return schema
    if kind is None or (isinstance(kind, list) and "object" in kind):
        return {**schema, "type": "object"}
    return ANY_OBJECT


def _token(token_id: int) -> Format:
    return {"type": "token", "token": token_id}


def _text(value: str) -> Format:
    return {"type": "const_string", "value": value}


def _sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def _or(*elements: Format) -> Format:
    return {"type": "or", "elements": list(elements)}


def _optional(content: Format) -> Format:
    return {"type": "optional", "content": content}


def _star(content: Format) -> Format:
    return {"type": "star", "content": content}


def _json(content: Format) -> str:
    return json.dumps({"type": "structural_tag", "format": content}, separators=(",", ":"))


_NEXT = (_token(START), _text("assistant"))


def _thought(channel: str) -> Format:
    return _sequence(
        _token(CHANNEL), _text(channel), _token(MESSAGE), {"type": "any_text"}, _token(END), *_NEXT
    )


_THOUGHT = _thought("analysis")
_PREAMBLE = _thought("commentary")
