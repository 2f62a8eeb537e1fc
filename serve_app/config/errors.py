"""What is wrong with a config, in words: one line a problem, with the key, the value and what is allowed."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

# A value longer than this is cut in messages: a misplaced block of YAML would bury the key's name.
MAX_VALUE_CHARACTERS = 60

Location = tuple[int | str, ...]


class ConfigError(Exception):
    """A config that cannot be served. `str()` is the whole message: one line a problem, to act on.

    Not a `ValueError`: pydantic passes other exceptions on as they are, so that Serve's controller, which
    validates `args` through the pydantic model, reports exactly this text in `serve status`.
    """


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns ` (did you mean X?)`, or nothing where no candidate is close."""
    close = difflib.get_close_matches(name, list(candidates), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def describe_errors(error: ValidationError, root: type[BaseModel]) -> str:
    """Returns one line for each of pydantic's errors about `root`, in the order of the file."""
    return "\n".join(_describe(item, root) for item in error.errors(include_url=False))


def _describe(item: Any, root: type[BaseModel]) -> str:
    location: Location = item["loc"]
    path, kind, message = _path(location), item["type"], str(item["msg"])
    if kind == "missing":
        return f"{path}: not set, and it has no default{_described(root, location)}"
    value = _shown(item["input"])
    if kind == "extra_forbidden":
        allowed = _fields(root, location[:-1])
        return (
            f"{path}: unknown key (value {value}){did_you_mean(str(location[-1]), allowed)}; "
            f"allowed here: {', '.join(allowed)}"
        )
    if kind == "value_error":
        message = str(item["ctx"]["error"])
        # A check over several keys belongs to none of them: its text names them.
        return message if not location else f"{path}: {value}: {message}"
    if kind in ("model_type", "model_attributes_type"):
        allowed = _fields(root, location)
        return f"{path or 'args'}: {value}: must be a mapping with the keys {', '.join(allowed)}"
    if kind == "string_type":
        return f"{path}: {value}: must be text; put it in quotes"
    return f"{path}: {value}: {message.replace('Input should', 'must').replace('String should', 'must')}"


def _path(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: ..." for key in value) + "}"
    else:
        text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "..."


def _model_at(root: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = root
    for part in location:
        if model is None or part not in model.model_fields:
            return None
        model = _model_in(model.model_fields[str(part)].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    choices = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    models = (choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel))
    return next(models, None)


def _fields(root: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    model = _model_at(root, location)
    return list(model.model_fields) if model else []


def _described(root: type[BaseModel], location: Location) -> str:
    model = _model_at(root, location[:-1])
    field = model.model_fields.get(str(location[-1])) if model else None
    return f": {field.description}" if field and field.description else ""
