"""vLLM's engine arguments: which values it takes, and the sections of which it wants objects."""

from __future__ import annotations

import builtins
import dataclasses
import enum
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, get_args, get_type_hints

from pydantic import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeAdapter, ValidationError
from vllm import AsyncEngineArgs
from vllm.config import SpeculativeConfig

# Sections that vLLM takes as mappings, and which class it makes of each.
MAPPINGS: dict[str, type[Any]] = {"speculative_config": SpeculativeConfig}


def argument_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns a line for each of `values`, engine arguments by name, that vLLM would not take."""
    return list(_problems(AsyncEngineArgs, values, ""))


def with_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with objects in place of mappings where vLLM's type is a class.

    vLLM makes some of them itself, and fails late with others.
    """
    return {name: _converted(AsyncEngineArgs, name, value) for name, value in values.items()}


def _converted(cls: Any, name: str, value: Any) -> Any:
    adapter = _adapter(cls, name) if isinstance(value, Mapping) else None
    return adapter.validate_python(value) if adapter else value


def _problems(cls: Any, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    for name, value in values.items():
        if name not in names:
            yield f"{prefix}{name}: {value!r}: vLLM's {cls.__name__} has no such field"
        elif name in MAPPINGS and isinstance(value, Mapping):
            yield from _problems(MAPPINGS[name], value, f"{prefix}{name}.")
        elif adapter := _adapter(cls, name):
            try:
                taken = adapter.validate_python(value)
            except ValidationError as error:
                for item in error.errors(include_url=False):
                    path = ".".join(map(str, (prefix + name, *item["loc"])))
                    yield f"{path}: {item['input']!r}: {item['msg']}"
                continue
            # pydantic takes "4" for 4; vLLM would get the text.
            if isinstance(value, str) and not isinstance(taken, str):
                yield f"{prefix}{name}: {value!r}: must not be text: leave out the quotes"


@cache
def _adapter(cls: Any, name: str) -> TypeAdapter[Any] | None:
    """What checks a field, or None where that takes more than its type."""
    hint = _hints(cls)[name]
    # vLLM looks up the names of these by itself.
    if any(isinstance(kind, type) and issubclass(kind, enum.Enum) for kind in (hint, *get_args(hint))):
        return None
    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return None


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, localns=_Names(sys.modules[cls.__module__]))


class _Names(dict[str, Any]):
    """The names in a module's annotations; those that it imports for type checkers only are `Any`."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __missing__(self, name: str) -> Any:
        return getattr(self._module, name, getattr(builtins, name, Any))
