"""A request body to typed values: the first thing that is wrong with it, in one sentence, and where it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from serve_app.errors import BadRequestError

T = TypeVar("T")

# What a message quotes of a client's text.
MAX_QUOTED_CHARS = 100
# With a sign or without one: schemas of tools have both limits.
MIN_INTEGER, MAX_INTEGER = -(1 << 63), (1 << 64) - 1
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>.*)`$", re.DOTALL)
# Where a body holds turns of a conversation, and which of Responses' items the model has said.
_TURNS = ("messages", "input")
_SAID_BY_MODEL = ("reasoning", "function_call", "custom_tool_call")
_MISSING = re.compile(r"^Object missing required field `(?P<name>\w+)`$")
# Objects and lists of a body. The brackets in its texts count as well, since these can be counted at once. It
# is more than a context of JSON without spaces has. The parser keeps the interpreter's lock, and all streams
# wait: 40 ms for so many, half a second for four megabytes of them.
MAX_BRACKETS = 250_000


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise msgspec.DecodeError("Number out of range")
    return value


# msgspec's own reading of a number such as 1e-310 takes 6 us, and it keeps the interpreter's lock for a body
# full of them. Python's takes half of one, and other threads get their turns.
_decoder = msgspec.json.Decoder(float_hook=_float)


def decode_json(content: bytes | str) -> Any:
    """Returns what a client's JSON says, in time that is linear in its length.

    Raises as `msgspec.json.decode`.
    """
    return _decoder.decode(content)


def read_body(raw: bytes) -> dict[str, Any]:
    """Returns the JSON object that a body is. Raises `BadRequestError` for anything else."""
    num_brackets = raw.count(b"[") + raw.count(b"{")
    if num_brackets > MAX_BRACKETS:
        raise BadRequestError(
            f"the request body has {num_brackets:,} objects and lists (opening brackets, those in texts "
            f"included); there may be {MAX_BRACKETS:,}",
            None,
        )
    try:
        body = decode_json(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(f"the request body is not valid JSON: {error}", None) from None
    except RecursionError:
        raise BadRequestError("the request body is nested too deeply", None) from None
    if not isinstance(body, dict):
        raise BadRequestError("the request body must be a JSON object", None)
    return body


def convert(value: Any, kind: type[T], path: str = "") -> T:
    """Returns `value` (parsed JSON, found at `path` of the body) as a `kind`, a msgspec struct for one.

    Raises `BadRequestError` with the place of the first thing that does not fit. Unknown fields are ignored,
    unless the struct forbids them.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, inner = str(error), ""
        if place := _PLACE.search(message):
            message, inner = message[: place.start()], place["path"]
        if missing := _MISSING.match(message):
            # msgspec's place is that of the object.
            message, inner = "this field is missing", join(inner, missing["name"])
        param = join(path, inner)
        raise BadRequestError(f"{param}: {message}" if param else message, param or None) from None
    except RecursionError:
        raise BadRequestError(f"{path or 'the request body'} is nested too deeply", path or None) from None


def check_values(body: Mapping[str, Any], raw: bytes) -> None:
    """Raises `BadRequestError` for a NUL character (U+0000) or an integer that no 64 bits hold.

    But not in what the model has said: it may have said both, and all that it has said may be sent back.
    `raw` is the body as it came: most bodies can be seen to contain neither.
    """
    if b"\\u0000" not in raw and _fits_64_bits(body):
        return
    # Not recursive: the nesting is the client's choice. Places are links until one is said: as texts, those
    # of a million values under a key of a megabyte would fill the memory.
    waiting: list[_Container] = [_Container(body, None, "")]
    while waiting:
        container = waiting.pop()
        value = container.value
        items: Iterable[tuple[Any, Any]] = enumerate(value) if isinstance(value, list) else value.items()
        for key, item in items:
            if problem := _problem(key) or _problem(item):
                place = container.place_of(key).replace("\0", "\\0")
                raise BadRequestError(f"{place} {problem}", place)
            if isinstance(item, dict | list) and not (isinstance(item, dict) and _is_models(item, container)):
                waiting.append(_Container(item, container, key))


def _fits_64_bits(body: Mapping[str, Any]) -> bool:
    try:
        msgspec.msgpack.encode(body)  # much faster than any loop
    except OverflowError:
        return False
    except RecursionError:
        raise BadRequestError("the request body is nested too deeply", None) from None
    return True


def _problem(item: Any) -> str | None:
    if isinstance(item, str):
        return "contains a NUL character (U+0000)" if "\0" in item else None
    if isinstance(item, int) and not MIN_INTEGER <= item <= MAX_INTEGER:
        return "is an integer of more than 64 bits"
    return None


def _is_models(item: Mapping[str, Any], container: _Container) -> bool:
    """Whether an object of a list is a turn of the model's."""
    is_turn = container.key in _TURNS and container.parent is not None and container.parent.parent is None
    return is_turn and (item.get("role") == "assistant" or item.get("type") in _SAID_BY_MODEL)


class _Container(NamedTuple):
    """An object or a list in a body, and where it is."""

    value: Any
    parent: _Container | None
    key: str | int

    def place_of(self, key: str | int) -> str:
        """Returns the path of what is in it at a key."""
        keys = [key]
        container = self
        while container.parent:
            keys.append(container.key)
            container = container.parent
        path = ""
        for step in reversed(keys):
            path = join(path, f"[{step}]" if isinstance(step, int) else step)
        return path


def join(path: str, inner: str) -> str:
    """Returns the path of what stands at `inner` of what stands at `path`."""
    if not path or not inner or inner.startswith("["):
        return path + inner
    return f"{path}.{inner}"


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a mapping without its keys whose value is null: for APIs where null is as left out."""
    return {key: item for key, item in value.items() if item is not None}


def quoted(text: object) -> str:
    """Returns a client's text as a message may hold it: in quotes, and not long."""
    shown = str(text)
    return repr(shown if len(shown) <= MAX_QUOTED_CHARS else shown[:MAX_QUOTED_CHARS] + "...")
