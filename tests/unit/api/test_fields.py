"""Bodies that are no JSON, and where in one something is wrong."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.fields import (
    MAX_BRACKETS,
    MAX_QUOTED_CHARS,
    check_values,
    convert,
    decode_json,
    join,
    quoted,
    read_body,
    without_nulls,
)
from serve_app.errors import BadRequestError, body_of
from tests.costs import check_linear, cpu_s
from tests.examples import examples


class Part(msgspec.Struct):
    text: str
    rank: int = 0


class Message(msgspec.Struct):
    parts: list[Part]
    names: dict[str, int] = {}


def refused(work: Any, *arguments: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        work(*arguments)
    assert len(json.dumps(body_of(caught.value))) < 2048
    return caught.value


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"3", b"null", b'"x"', b'{"a": "\xff"}', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_what_is_no_object(raw: bytes) -> None:
    assert refused(read_body, raw).param is None


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({}, "parts"),
        ({"parts": 1}, "parts"),
        ({"parts": [{"text": "a"}, {}]}, "parts[1].text"),
        ({"parts": [{"text": "a"}, {"text": 2}]}, "parts[1].text"),
        ({"parts": [{"text": "a", "rank": "high"}]}, "parts[0].rank"),
        ({"parts": [], "names": {"x": "y"}}, "names[...]"),
    ],
)
def test_the_place_of_what_is_wrong(value: Any, param: str) -> None:
    error = refused(convert, value, Message)
    assert error.param == param
    assert param in str(error)
    inner = refused(convert, value, Message, "messages[3]").param
    assert inner == f"messages[3].{param}"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a\0b"}, "prompt"),
        ({"messages": [{"content": "x"}, {"content": "\0"}]}, "messages[1].content"),
        ({"metadata": {"a\0": 1}}, "metadata.a\\0"),
        ({"metadata": {"input": [{"role": "assistant", "a": "\0"}]}}, "metadata.input[0].a"),
        ({"input": [{"type": "function_call_output", "output": "\0"}]}, "input[0].output"),
        ({"input": [{"type": ["reasoning"], "a": "\0"}]}, "input[0].a"),
        ({"messages": {"role": "assistant", "a": "\0"}}, "messages.a"),
    ],
)
def test_nul_is_found_anywhere(body: Any, param: str) -> None:
    error = refused(check_values, body, json.dumps(body).encode())
    assert error.param == param
    assert "\0" not in str(error)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"a\0": "\0"}}]}]},
        {"input": [{"role": "assistant", "content": [{"text": "\0"}]}]},
        {"input": [{"type": "reasoning", "content": [{"text": "\0"}]}]},
        {"input": [{"type": "function_call", "name": "\0", "arguments": "\0"}]},
    ],
)
def test_the_model_may_have_said_nul(body: Any) -> None:
    check_values(body, json.dumps(body).encode())


def test_the_escape_spelt_out_is_text() -> None:
    raw = rb'{"prompt": "\\u0000"}'
    check_values(read_body(raw), raw)


def test_nul_at_any_depth() -> None:
    deep: Any = "\0"
    for _ in range(500):
        deep = [deep]
    refused(check_values, {"a": deep}, json.dumps({"a": deep}).encode())


BEYOND_64_BITS = [2**64, -(2**63) - 1, 10**40, -(10**400)]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(BEYOND_64_BITS)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("integer", BEYOND_64_BITS, ids=range(4))
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"top_k": ...}, "top_k"),
        ({"vllm_xargs": {"a": [1, ...]}}, "vllm_xargs.a[1]"),
        ({"tools": [{"parameters": {"properties": {"n": {"maximum": ...}}}}]}, None),
        ({"messages": [{"role": "user", "content": "x", "n": ...}]}, "messages[0].n"),
        ({"metadata": {"input": [{"role": "assistant", "a": ...}]}}, "metadata.input[0].a"),
    ],
)
def test_an_integer_of_more_than_64_bits_is_found_anywhere(
    body: Any, param: str | None, integer: int
) -> None:
    raw = json.dumps(body, default=lambda _: integer).encode()
    error = refused(check_values, read_body(raw), raw)
    assert error.param == (param or "tools[0].parameters.properties.n.maximum")
    assert "more than 64 bits" in str(error)


@pytest.mark.parametrize("integer", [2**64 - 1, -(2**63), *BEYOND_64_BITS], ids=range(6))
def test_the_model_may_have_said_any_integer(integer: int) -> None:
    said = {"type": "tool_use", "input": {"n": integer}}
    body = {"messages": [{"role": "assistant", "content": [said]}]}
    check_values(body, json.dumps(body).encode())


@pytest.mark.parametrize("integer", [2**64 - 1, -(2**63), True])
def test_an_integer_of_64_bits_is_none_of_more(integer: int) -> None:
    check_values({"maximum": integer}, b"")


@given(body=st.dictionaries(st.text(), json_values, max_size=5))
@examples(200)
def test_a_value_is_refused_exactly_where_there_is_one(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    if is_sound(body):
        check_values(body, raw)
    else:
        refused(check_values, body, raw)


def is_sound(value: Any) -> bool:
    if isinstance(value, dict):
        return all(is_sound(key) and is_sound(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_sound, value))
    if isinstance(value, str):
        return "\0" not in value
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def test_small_helpers() -> None:
    assert without_nulls({"a": None, "b": 0}) == {"b": 0}
    assert (join("", "a"), join("a", ""), join("a", "b"), join("a", "[0]")) == ("a", "a", "a.b", "a[0]")
    assert len(quoted("x" * 10_000)) < MAX_QUOTED_CHARS + 10


@pytest.mark.slow
def test_nul_is_looked_for_in_little_memory() -> None:
    # A place for each value, as a text, would take 100 GB.
    body: dict[str, Any] = {"k" * 100_000: ["a"] * 500_000 + [{}] * 500_000, "z": rb"\u0000".decode()}
    raw = json.dumps(body).encode()
    tracemalloc.start()
    try:
        check_values(body, raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000_000


@pytest.mark.parametrize("unit", [b"[]", b"{}", b'"["', b'"{[{"'])
def test_a_body_has_so_many_objects_and_lists(unit: bytes) -> None:
    num_units = (MAX_BRACKETS - 2) // (unit.count(b"[") + unit.count(b"{"))
    body = b'{"a":[%b]}'
    read_body(body % b",".join([unit] * num_units))
    message = str(refused(read_body, body % b",".join([unit] * (num_units + 2))))
    assert "there may be 250,000" in message


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)


@examples(300)
@given(NUMBERS)
def test_a_number_is_read_as_by_any_parser(text: str) -> None:
    said = []
    for decode in (decode_json, msgspec.json.decode):
        try:
            said.append(repr(decode(text)))
        except msgspec.DecodeError as error:
            said.append(str(error))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "number", [b"1e-310", b"2.5e-324", b"17976931348623157e292", b"1." + b"0" * 27 + b"1e-300"]
)
def test_no_number_takes_long(number: bytes) -> None:
    """msgspec's own reading takes ten times as long, and no other thread runs meanwhile."""
    raw = b"[" + b",".join([number] * 10_000) + b"]"
    assert cpu_s(lambda: decode_json(raw)) < cpu_s(lambda: msgspec.json.decode(raw))


@examples(25)
@given(
    st.sampled_from(
        [b"[]", b"{}", b'""', b'"a"', b"1", b"1.5", b"1e-310", b"null", b'"\\u0000"', b'"\\ud800"']
    )
)
def test_the_time_is_linear(unit: bytes) -> None:
    def read(size: int) -> Any:
        raw = b'{"a":[%b]}' % b",".join([unit] * size)

        def work() -> None:
            with contextlib.suppress(BadRequestError):
                check_values(read_body(raw), raw)

        return work

    check_linear(read, 5_000)
