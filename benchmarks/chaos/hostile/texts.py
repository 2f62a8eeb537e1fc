"""Texts and bodies: one character for megabytes, padded tables, _brackets, _numbers, escapes."""

from __future__ import annotations

import random
import string

from benchmarks.chaos.hostile.request import (
    EITHER,
    MAX_BODY_BYTES,
    REFUSED,
    Form,
    Hostile,
    Kind,
    body,
    encoded,
    text_of_any_api,
)
from benchmarks.chaos.questions import CHAT, PATHS
from serve_app.api.fields import MAX_BRACKETS
from serve_app.api.long_bodies import MAX_INLINE_BYTES
from serve_app.demo import MODEL_NAME

# What a text leaves for the rest of its body.
REST_BYTES = 1024
# Of characters that the encoder takes as one word, or as spaces.
RUNS = (" ", "a", "é", "中", "0", "-", "=", "\n", "\t", "_", ".", "🙂", "\u00a0", "'", "aé")


def run_of_one(num_bytes: int, drawn: random.Random) -> str:
    """One character, again and again."""
    unit = drawn.choice(RUNS)
    # Line ends and tabs are escaped.
    return unit * (num_bytes // max(len(unit.encode()), len(encoded(unit)) - 2))


def padded_table(num_bytes: int, drawn: random.Random) -> str:
    """As people paste it."""
    width = drawn.choice((64, 256, 2048))
    row = "".join(f"{drawn.choice(string.ascii_letters):{width}}|" for _ in range(8)) + "\n"
    return row * (num_bytes // (len(row) + 1))


def letters(num_bytes: int, drawn: random.Random) -> str:
    """As Base64 looks."""
    return "".join(drawn.choices(string.ascii_letters + string.digits + "+/", k=num_bytes))


def one_word(num_bytes: int, drawn: random.Random) -> str:
    """Without a place where a word ends."""
    return "".join(drawn.choices(string.ascii_lowercase, k=num_bytes))


def markers(num_bytes: int, drawn: random.Random) -> str:
    """Names of special tokens, and what looks like them."""
    unit = drawn.choice(("<|end|>", "<|start|>", "<|x|>", "<|", "<|reserved_200014|>"))
    return unit * (num_bytes // len(unit))


def cjk(num_bytes: int, drawn: random.Random) -> str:
    """No spaces between words."""
    return "".join(chr(drawn.randint(0x4E00, 0x9FFF)) for _ in range(num_bytes // 3))


TEXTS = (run_of_one, padded_table, letters, one_word, markers, cjk)


def _largest(text: object) -> Form:
    def draw(drawn: random.Random) -> Hostile:
        words = text(MAX_BODY_BYTES - REST_BYTES, drawn)  # type: ignore[operator]
        return Hostile(f"{_name(text)}, largest", *text_of_any_api(drawn, words), EITHER)

    return draw


def _inline(text: object) -> Form:
    def draw(drawn: random.Random) -> Hostile:
        words = text(MAX_INLINE_BYTES - REST_BYTES, drawn)  # type: ignore[operator]
        return Hostile(f"{_name(text)}, in the event loop", *text_of_any_api(drawn, words), EITHER)

    return draw


def _name(text: object) -> str:
    return str(text.__name__).replace("_", " ")  # type: ignore[attr-defined]


def _raw(name: str, content: str, drawn: random.Random, statuses: frozenset[int] = EITHER) -> Hostile:
    """A body that has this JSON in a field that nobody knows."""
    sent = body(CHAT, "Hi", x="MARKER").replace(b'"MARKER"', content.encode())
    return Hostile(name, PATHS[CHAT], sent, statuses)


def _sized(drawn: random.Random) -> int:
    return drawn.choice((MAX_INLINE_BYTES, MAX_BODY_BYTES)) - REST_BYTES


def _brackets(drawn: random.Random) -> Hostile:
    number = min(MAX_BRACKETS - 100, _sized(drawn) // 3)
    unit = drawn.choice(("[],", "{},", '"[",'))
    return _raw("brackets", "[" + unit * number + "0]", drawn)


def _too_many_brackets(drawn: random.Random) -> Hostile:
    number = drawn.choice((MAX_BRACKETS, (MAX_BODY_BYTES - REST_BYTES) // 3))
    return _raw("too many brackets", "[" + "[]," * number + "0]", drawn, REFUSED)


def _nested(drawn: random.Random) -> Hostile:
    depth = drawn.choice((1_001, 20_000, MAX_BRACKETS - 100))
    return _raw("nested lists", "[" * depth + "]" * depth, drawn, REFUSED)


def _numbers(drawn: random.Random) -> Hostile:
    number = drawn.choice(
        ("1e-310,", "0,", "1.5,", "-1E+5,", "123456789012345678,", "0.12345678901234567890,")
    )
    return _raw("numbers", "[" + number * (_sized(drawn) // len(number)) + "0]", drawn)


def _escapes(drawn: random.Random) -> Hostile:
    unit = drawn.choice(("\\u0041", "\\ud83d\\ude42", "\\n", "\\u4e2d"))
    sent = '"' + unit * (_sized(drawn) // len(unit)) + '"'
    made = body(CHAT, "MARKER").replace(b'"MARKER"', sent.encode())
    return Hostile("escapes", PATHS[CHAT], made, EITHER)


def _nul_somewhere(drawn: random.Random) -> Hostile:
    """All values are looked at one by one."""
    content = '{"a":[' + "1," * (_sized(drawn) // 2 - 40) + '"\\u0000"]}'
    return _raw("a NUL behind a million numbers", content, drawn, REFUSED)


def _keys(drawn: random.Random) -> Hostile:
    size = _sized(drawn)
    content = "{" + ",".join(f'"{index}":0' for index in range(size // 12)) + "}"
    return _raw("keys", content, drawn)


def _turns(drawn: random.Random) -> Hostile:
    """As many messages as a body may have."""
    number = min(MAX_BRACKETS - 10, _sized(drawn) // 32)
    listed = b'{"role":"user","content":"a"},' * number
    made = encoded({"model": MODEL_NAME, "max_tokens": 4, "messages": ["MARKER"]})
    return Hostile("turns", PATHS[CHAT], made.replace(b'"MARKER"', listed[:-1]), EITHER)


def _tokenize(drawn: random.Random) -> Hostile:
    words = drawn.choice(TEXTS)(MAX_BODY_BYTES - REST_BYTES, drawn)
    sent = {"model": MODEL_NAME, "prompt": words, "return_token_strs": drawn.random() < 0.5}
    return Hostile("tokens of the largest text", "/tokenize", encoded(sent), frozenset({200, 400}))


def _detokenize(drawn: random.Random) -> Hostile:
    tokens = [drawn.randint(0, 199_000)] * ((MAX_BODY_BYTES - REST_BYTES) // 7)
    return Hostile(
        "text of the most tokens",
        "/detokenize",
        encoded({"model": MODEL_NAME, "tokens": tokens}),
        frozenset({200}),
    )


KINDS = (
    Kind("long-texts", "the largest bodies of one text", tuple(map(_largest, TEXTS))),
    Kind("short-texts", "the largest texts that are read in the event loop", tuple(map(_inline, TEXTS))),
    Kind(
        "large-bodies",
        "brackets, _numbers, _escapes, _keys, turns",
        (_brackets, _too_many_brackets, _nested, _numbers, _escapes, _nul_somewhere, _keys, _turns),
    ),
    Kind("tokenize", "tokens of the largest texts, and back", (_tokenize, _detokenize)),
)
