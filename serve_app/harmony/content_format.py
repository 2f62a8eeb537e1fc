"""What the text of an answer must look like, as an xgrammar format.

Special tokens are no text, so no format may match one. The engine's vocabulary for grammars has for each
special token bytes that are no UTF-8 (`grammar_vocabulary`): no regular expression, schema or rule matches
them. xgrammar's formats of free text (`any_text`, `triggered_tags`, `dispatch`) match all bytes, and so get
the names of special tokens as what they exclude; formats that match tokens by their ids are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.errors import BadRequestError
from serve_app.harmony import lark

Format = dict[str, Any]

JSON_KINDS = frozenset({"json_schema", "json_object"})
ANY_OBJECT = {"type": "object"}

# Names of special tokens, or how they begin.
SPECIAL_NAMES = (
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>",
    "<|message|>", "<|call|>", "<|reserved_",
)  # fmt: skip

# OpenAI's schemas have 120,000 characters altogether. Patterns of clients have some hundred.
MAX_PATTERN_CHARS = 16 * 1024
MAX_GRAMMAR_CHARS = 128 * 1024

# A client's structural tag is walked by recursion.
MAX_DEPTH = 32

# What xgrammar's EBNF calls rules that match special tokens, or any bytes.
_TOKEN_RULES = {"Token", "ExcludeToken", "AnyTokens", "TagDispatch", "TokenTagDispatch"}
# Literals, classes and comments are skipped; what is left is looked at word by word. Nothing is given back
# and tried again (`*+`), and what is never closed is taken to its end: the time is linear in any text.
_EBNF_PART = re.compile(
    r'"(?:[^"\\\n]|\\.)*+(?:"|(?P<quote>\\?+))|\[(?:[^\]\\]|\\.)*+(?:\]|(?P<bracket>\\?+))|#[^\n]*+'
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*+)(?=(?P<call>\s*+\()?)"
)


@dataclass(frozen=True, slots=True)
class ContentFormat:
    """What the text on the channel `final` must look like. `value` is by kind:

    a schema (mapping), None, a regular expression, a list of texts, a grammar in EBNF or Lark, or an xgrammar
    structural tag (mapping).
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]
    value: Any = None


def xgrammar_format(content: ContentFormat) -> Format:
    """Returns the format of a text. Whether it can be compiled is for `GrammarChecker` to say.

    Raises `BadRequestError`, without a field's name, for a value that is not of its kind, and for what could
    match a special token.
    """
    return _BY_KIND[content.kind](content.value)


def _schema(value: Any) -> Format:
    if not isinstance(value, bool | Mapping):
        raise _refusal("the schema must be an object")
    return {"type": "json_schema", "json_schema": value}


def _object(value: Any) -> Format:
    return {"type": "json_schema", "json_schema": ANY_OBJECT}


def _regex(value: Any) -> Format:
    return {"type": "regex", "pattern": _text(value, "the regular expression", MAX_PATTERN_CHARS)}


def _choice(value: Any) -> Format:
    choices = _list(value, "the list of choices")
    if not choices:
        raise _refusal("the list of choices must not be empty")
    return {
        "type": "or",
        "elements": [
            {"type": "const_string", "value": _text(choice, "a choice", may_be_empty=True)}
            for choice in choices
        ],
    }


def _grammar(value: Any) -> Format:
    text = _text(value, "the grammar", MAX_GRAMMAR_CHARS)
    if lark.is_lark(text):
        text = lark.to_ebnf(text)
    for part in _EBNF_PART.finditer(text):
        for name in ("quote", "bracket"):
            if part[name] is not None:
                raise _refusal(f"the grammar has a {name} that is not closed")
        if part["call"] is not None and part["word"] in _TOKEN_RULES:
            raise _refusal(f"the grammar uses {part['word']}, which could match special tokens")
    return {"type": "grammar", "grammar": text}


def _structural_tag(value: Any) -> Format:
    tag = _mapping(value, "the structural tag")
    if "format" in tag:
        return _client_format(tag["format"], 0)
    # The older form.
    structures = _list(tag.get("structures"), "structures")
    tags = [
        {
            "type": "tag",
            "begin": structure.get("begin"),
            "content": {"type": "json_schema", "json_schema": structure.get("schema")},
            "end": structure.get("end"),
        }
        for structure in (_mapping(structure, "each of structures") for structure in structures)
    ]
    return _client_format({"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}, 0)


_BY_KIND: Mapping[str, Callable[[Any], Format]] = {
    "json_schema": _schema,
    "json_object": _object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "structural_tag": _structural_tag,
}

# Which fields of a format hold formats.
_CONTENT = {"tag", "optional", "plus", "star", "repeat"}
_ELEMENTS = {"sequence", "or"}
_TAGS = {"triggered_tags", "tags_with_separator"}
_FREE_TEXT = {"any_text", "triggered_tags", "dispatch"}
_LEAVES = {"const_string", "any_text"}


def _client_format(value: Any, depth: int) -> Format:
    """Returns a client's format so that it matches no special token."""
    given = _mapping(value, "each format of the structural tag")
    if depth >= MAX_DEPTH:
        raise _refusal("the structural tag is nested too deeply")
    safe: Format = dict(given)
    kind = given.get("type")
    if kind == "grammar":
        return _grammar(given.get("grammar"))
    if kind == "regex":
        return _regex(given.get("pattern"))
    if kind == "json_schema":
        if given.get("style", "json") != "json":
            raise _refusal("the structural tag has a json_schema whose style is not json")
        safe |= _schema(given.get("json_schema"))
    elif kind in _CONTENT:
        safe["content"] = _client_format(given.get("content"), depth + 1)
        for name in ("begin", "end") if kind == "tag" else ():
            texts = given.get(name)
            for text in texts if isinstance(texts, list) else [texts]:
                _text(text, f"{name} of a tag", may_be_empty=True)
    elif kind in _ELEMENTS:
        elements = _list(given.get("elements"), f"the elements of {kind}")
        safe["elements"] = [_client_format(element, depth + 1) for element in elements]
    elif kind in _TAGS:
        tags = [_client_format(tag, depth + 1) for tag in _list(given.get("tags"), f"the tags of {kind}")]
        safe["tags"] = tags
    elif kind == "dispatch":
        rules = [
            _list(rule, "a rule of dispatch") for rule in _list(given.get("rules"), "the rules of dispatch")
        ]
        safe["rules"] = [
            [_text(rule[0], "a pattern of dispatch"), _client_format(rule[1], depth + 1)]
            for rule in rules
            if len(rule) == 2
        ]
    elif kind not in _LEAVES:
        raise _refusal(f"the structural tag has a format of type {str(kind)[:100]!r}, which is not supported")
    if kind in _FREE_TEXT:
        excludes = _list(given.get("excludes") or [], f"excludes of {kind}")
        safe["excludes"] = [*excludes, *(name for name in SPECIAL_NAMES if name not in excludes)]
    return safe


def _text(value: Any, name: str, max_chars: int | None = None, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or may_be_empty):
        raise _refusal(f"{name} must be a text" + ("" if may_be_empty else " that is not empty"))
    if max_chars is not None and len(value) > max_chars:
        raise _refusal(f"{name} has {len(value):,} characters and may have {max_chars:,}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _refusal(f"{name} must be a list")
    return list(value)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refusal(f"{name} must be an object")
    return value


def _refusal(message: str) -> BadRequestError:
    return BadRequestError(message, None)
