"""Patterns, grammars and lists of choices: deep, long, slow, never closed."""

from __future__ import annotations

import random
import string

from benchmarks.chaos.hostile.request import (
    EITHER,
    REFUSED,
    SERVED,
    Form,
    Hostile,
    Kind,
    with_outputs,
    with_schema,
)
from serve_app.api.structured_outputs import MAX_CHOICES
from serve_app.grammars.bounds import MAX_PATTERN_DEPTH
from serve_app.harmony.content_format import MAX_DEPTH, MAX_GRAMMAR_CHARS, MAX_PATTERN_CHARS

# As the first one that killed an ingress.
DEEP = 30_000


def _pattern(name: str, statuses: frozenset[int], pattern: str, drawn: random.Random) -> Hostile:
    """A pattern in one of the places where one may stand."""
    place = drawn.randrange(4)
    if place == 0:
        return Hostile(name, *with_outputs(drawn, regex=pattern), statuses)
    schema = (
        {"type": "string", "pattern": pattern},
        {"type": "object", "patternProperties": {pattern: {"type": "string"}}},
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "string", "pattern": pattern}}},
        },
    )[place - 1]
    return Hostile(name, *with_schema(drawn, schema), statuses)


def groups(depth: int, drawn: random.Random) -> str:
    """That many groups in one another."""
    return drawn.choice(("(", "(?:")) * depth + drawn.choice(string.ascii_letters) + ")" * depth


def _deep_pattern(drawn: random.Random) -> Hostile:
    depth = drawn.choice((MAX_PATTERN_DEPTH + 1, 1_000, DEEP))
    return _pattern("deep pattern", REFUSED, groups(depth, drawn), drawn)


def _deepest_pattern(drawn: random.Random) -> Hostile:
    return _pattern("deepest pattern that is taken", SERVED, groups(MAX_PATTERN_DEPTH, drawn), drawn)


def _long_pattern(drawn: random.Random) -> Hostile:
    letters = drawn.choices(string.ascii_letters, k=MAX_PATTERN_CHARS + drawn.randint(1, 2_000_000))
    return _pattern("long pattern", REFUSED, "".join(letters), drawn)


def _longest_pattern(drawn: random.Random) -> Hostile:
    unit = drawn.choice(("[a-z]", "a|", "(a|b)", ".", "\\w", "a?", "[^a]"))
    return _pattern(
        "longest pattern that is looked at",
        EITHER,
        (unit * MAX_PATTERN_CHARS)[: MAX_PATTERN_CHARS - 8] + "a",
        drawn,
    )


def _unclosed_pattern(drawn: random.Random) -> Hostile:
    unit = drawn.choice(("[", "[a", "[\\", "([", "("))
    return _pattern(
        "pattern never closed",
        REFUSED,
        (unit * MAX_PATTERN_CHARS)[: drawn.randint(1_001, MAX_PATTERN_CHARS)],
        drawn,
    )


def _slow_pattern(drawn: random.Random) -> Hostile:
    times = [drawn.randint(60, 120) for _ in range(3)]
    letter = drawn.choice(string.ascii_letters)
    return _pattern(
        "slow pattern", EITHER, f"(({letter}{{0,{times[0]}}}){{0,{times[1]}}}){{0,{times[2]}}}", drawn
    )


def _slow_union(drawn: random.Random) -> Hostile:
    """3 KiB that compile for a minute."""
    parts = ["".join(drawn.choices("ab.?*", k=1)) + f"{{1,{drawn.randint(100, 400)}}}" for _ in range(300)]
    return _pattern(
        "slow union",
        EITHER,
        "(" + "|".join(f"x.{part}".replace("*{", "a{").replace("?{", "b{") for part in parts) + ")",
        drawn,
    )


def _slow_lengths(drawn: random.Random) -> Hostile:
    """Each limit is some automata of its own."""
    names = [f"p{index}" for index in range(40)]
    schema = {
        "type": "object",
        "properties": {
            name: {"type": "string", "minLength": 1, "maxLength": drawn.randint(900, 3000)} for name in names
        },
        "required": names,
    }
    return Hostile("strings of many lengths", *with_schema(drawn, schema), EITHER)


def _ambiguous(drawn: random.Random) -> Hostile:
    """Takes longer with each token."""
    letter = drawn.choice(string.ascii_lowercase)
    rules = f'root ::= s\ns ::= s s s | s s | "{letter}" | "{letter}{letter}" | ""'
    return Hostile("ambiguous grammar", *with_outputs(drawn, grammar=rules), EITHER)


def _long_grammar(drawn: random.Random) -> Hostile:
    rule = drawn.choice(('root ::= "a"\n', "root ::= [a]\n", "# x\n", 'start: "a"\n'))
    return Hostile(
        "long grammar", *with_outputs(drawn, grammar=rule * (MAX_GRAMMAR_CHARS // len(rule) + 1)), REFUSED
    )


def _longest_grammar(drawn: random.Random) -> Hostile:
    number = drawn.randint(2_000, 4_000)
    rules = [f'r{index} ::= "{index}" | r{(index + 1) % number}' for index in range(number)]
    grammar = "root ::= r0\n" + "\n".join(rules)
    return Hostile("grammar of many rules", *with_outputs(drawn, grammar=grammar[:MAX_GRAMMAR_CHARS]), EITHER)


def _unclosed_grammar(drawn: random.Random) -> Hostile:
    unit = drawn.choice(('"', "[", '"\\', "(", "a ", "Token", "Token ", '"\n'))
    grammar = "root ::= " + unit * (drawn.randint(10_000, MAX_GRAMMAR_CHARS - 20) // len(unit))
    return Hostile("grammar never closed", *with_outputs(drawn, grammar=grammar), REFUSED)


def _deep_grammar(drawn: random.Random) -> Hostile:
    depth = drawn.choice((1_000, 20_000, DEEP))
    return Hostile(
        "deep grammar", *with_outputs(drawn, grammar="root ::= " + "(" * depth + '"a"' + ")" * depth), EITHER
    )


def _deep_tag(drawn: random.Random) -> Hostile:
    tag: dict[str, object] = {"type": "const_string", "value": "a"}
    for _ in range(drawn.choice((MAX_DEPTH, 200, 400))):
        tag = {"type": "optional", "content": tag}
    return Hostile(
        "deep structural tag",
        *with_outputs(drawn, structural_tag={"type": "structural_tag", "format": tag}),
        REFUSED,
    )


def _choices(number: int, length: int, drawn: random.Random) -> list[str]:
    return ["".join(drawn.choices(string.ascii_letters, k=length)) for _ in range(number)]


def _many_choices(drawn: random.Random) -> Hostile:
    number = drawn.choice((MAX_CHOICES + 1, 300_000))
    return Hostile("many choices", *with_outputs(drawn, choice=_choices(number, 6, drawn)), REFUSED)


def _most_choices(drawn: random.Random) -> Hostile:
    chosen = _choices(MAX_CHOICES, drawn.choice((6, 60)), drawn)
    return Hostile("most choices that are taken", *with_outputs(drawn, choice=chosen), EITHER)


def _long_choices(drawn: random.Random) -> Hostile:
    chosen = _choices(MAX_CHOICES, drawn.randint(1_000, 3_000), drawn)
    return Hostile("long choices", *with_outputs(drawn, choice=chosen), EITHER)


PATTERNS: tuple[Form, ...] = (
    _deep_pattern, _deepest_pattern, _long_pattern, _longest_pattern, _unclosed_pattern,
)  # fmt: skip
GRAMMARS: tuple[Form, ...] = (_long_grammar, _longest_grammar, _unclosed_grammar, _deep_grammar, _deep_tag)
KINDS = (
    Kind("patterns", "regular expressions: deep, long, never closed", PATTERNS, may_be_busy=True),
    Kind("grammars", "grammars and structural tags: deep, long, never closed", GRAMMARS, may_be_busy=True),
    Kind(
        "slow-grammars",
        "what compiles for minutes",
        (_slow_pattern, _slow_union, _slow_lengths, _ambiguous),
        may_be_busy=True,
    ),
    Kind(
        "choices",
        "lists of texts that an answer may be",
        (_many_choices, _most_choices, _long_choices),
        may_be_busy=True,
    ),
)
