"""What a function may be called."""

from __future__ import annotations

import re

from serve_app.api.fields import quoted
from serve_app.errors import BadRequestError

MAX_CHARS = 128
# OpenAI allows 64, and ASCII only. What a header of harmony would end at is left out.
_NAME = re.compile(rf"[\w.:/-]{{1,{MAX_CHARS}}}")


def check_tool_name(name: str, param: str) -> None:
    """Raises `BadRequestError` for a name that a header of harmony cannot hold."""
    if not _NAME.fullmatch(name):
        raise BadRequestError(
            f"{param} is {quoted(name)}; a name consists of 1 to {MAX_CHARS} letters, digits and -_.:/", param
        )
