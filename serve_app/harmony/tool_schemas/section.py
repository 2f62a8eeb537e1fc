"""JSON schemas of tools as the prompt shows them: types in the style of TypeScript, with comments.

openai-harmony's text, to the letter, for what it says right. It says `any` of references, `anyOf`, `allOf`,
`const` and numbers of an enum, nothing of maps, lets a description's second line stand outside the comment,
and puts no brackets around the alternatives of an array. Here all of it is said. What a schema only restricts
(`minimum`, `pattern`, `not` ...) is left out in both.

Schemas come unchecked. Any JSON is rendered, in bounded time and size (see `reader`); what lies beyond
is `any`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.harmony.conversation import Tool
from serve_app.harmony.tool_schemas.reader import WorkLimit
from serve_app.harmony.tool_schemas.text import comment
from serve_app.harmony.tool_schemas.types import SchemaTypes

# Of a message's header, as read. Megabytes of spaces for a name would hold up all streams while they are
# replaced.
MAX_NAME_CHARS = 4096


def tools_section(tools: Sequence[Tool]) -> str:
    """Returns the section of the developer message that defines the tools as functions."""
    limit = WorkLimit()
    lines = ["# Tools\n", "## functions\n", "namespace functions {\n"]
    for tool in tools:
        described = comment(tool.description, "") if tool.description else ""
        parameters = "" if tool.parameters is None else f"_: {SchemaTypes(tool.parameters, limit).text()}"
        lines.append(f"{described}type {word(tool.name)} = ({parameters}) => any;\n")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def word(name: str) -> str:
    """Returns a name as one word, since a space would end it in a header; a very long one is cut."""
    return re.sub(r"\s", "_", name[:MAX_NAME_CHARS])
