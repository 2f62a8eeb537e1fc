"""Which token sequences an answer may consist of: an xgrammar structural tag over whole harmony answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.harmony.conversation import Tool

ToolChoice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class ContentFormat:
    """What the text on the channel `final` must look like. `value` is by kind:

    a schema (mapping), None, a regular expression, a list of texts, a grammar in EBNF or Lark, or an xgrammar
    structural tag (mapping).
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]
    value: Any = None


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
    `content` and `auto`, the answer is either a call or a text of that format.
    """
    raise NotImplementedError
