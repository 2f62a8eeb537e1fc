"""Corrections of the grammars that xgrammar 0.2.8 makes of schemas, in the text (EBNF) that it prints.

A string whose length is limited may there hold tabs and other control characters, which no JSON does, and no
escapes: neither quotes nor line ends. Here it holds no control characters; where only its least length is
given (`minLength: 1` is the most frequent limit), it may hold all that other strings do. With both limits
escapes stay out: they would make a mask take 80 ms.
"""

from __future__ import annotations

import re

# The characters of such a string, and a string of so many of them or more.
_CHARACTERS = re.compile(r'^(\S+ ::= )\(\(\[\^\\"\\\\\\r\\n\]\)\)$', re.MULTILINE)
_AT_LEAST = re.compile(r'^(\S+ ::= )\(\("\\"" \S+_characters(?:_\d+)?\{(\d+), -1\} "\\""\)\)$', re.MULTILINE)

_CHARACTER = r"[^\"\\\0-\x1f]"
_ESCAPE = r'("\\" ([\"\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))'
# Rule NAME + "3" is the rest of a string that has at least three characters left, its end included.
_REST = "serve_app_string_rest_"
# Each is a rule; longer ones stay as they are.
_MAX_LEAST_LENGTH = 32


def with_valid_strings(ebnf: str) -> str:
    """Returns the grammar with all strings of limited length as they should be."""
    lengths = [length for one in _AT_LEAST.finditer(ebnf) if (length := int(one[2])) <= _MAX_LEAST_LENGTH]
    ebnf = _AT_LEAST.sub(_string, ebnf)
    ebnf = _CHARACTERS.sub(lambda rule: f"{rule[1]}{_CHARACTER}", ebnf)
    if not lengths:
        return ebnf
    rest = f'{_REST}0 ::= "\\"" | {_CHARACTER} {_REST}0 | {_ESCAPE} {_REST}0\n'
    for left in range(1, max(lengths) + 1):
        rest += f"{_REST}{left} ::= {_CHARACTER} {_REST}{left - 1} | {_ESCAPE} {_REST}{left - 1}\n"
    return f"{ebnf.rstrip()}\n{rest}"


def _string(rule: re.Match[str]) -> str:
    length = int(rule[2])
    return f'{rule[1]}"\\"" {_REST}{length}' if length <= _MAX_LEAST_LENGTH else rule[0]
