"""How much the model thinks: OpenAI's names for it, and gpt-oss's."""

from __future__ import annotations

from serve_app.api.fields import quoted
from serve_app.errors import BadRequestError
from serve_app.harmony.conversation import Effort

# gpt-oss knows three. OpenAI's newer names mean the nearest; `none` it cannot do.
EFFORTS: dict[str, Effort] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def effort_of(name: str | None, param: str) -> Effort:
    """Returns the effort that a client's name of one means. Raises `BadRequestError` for what is none."""
    if name is None:
        return "medium"
    if effort := EFFORTS.get(name):
        return effort
    raise BadRequestError(f"{param} is {quoted(name)}; it must be one of {', '.join(EFFORTS)}", param)
