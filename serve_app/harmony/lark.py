"""Grammars in Lark, as clients of vLLM may send them, to the EBNF that xgrammar reads.

What is understood is what vLLM understands: rules of literals, references, groups and repetitions, with `|`
at the beginning of a line for a further alternative.
"""

from __future__ import annotations

import re

from serve_app.errors import BadRequestError

_COMMENT = re.compile(r"(#|//).*$")
_SINGLE_QUOTED = re.compile(r"'([^']*)'")
_DOUBLE_QUOTED = re.compile(r'"[^"]*"')
_NAME = re.compile(r"\b[a-zA-Z_][a-zA-Z0-9_]*\b")


def is_lark(grammar: str) -> bool:
    """Whether none of the lines defines a rule as EBNF does."""
    return not any("::=" in line for line in _lines(grammar))


def to_ebnf(grammar: str) -> str:
    """Returns the grammar in EBNF. `start`, or else the first rule, is where a text begins.

    Raises `BadRequestError` where it is no grammar.
    """
    rules: dict[str, list[str]] = {}
    name = ""
    for number, line in enumerate(_lines(grammar), 1):
        if not line:
            continue
        if line.startswith("|"):
            if not name:
                raise _refusal(number, "there is an alternative without a rule before it")
            rules[name].append(_alternative(line[1:], number))
        elif ":" in line:
            name, _, definition = line.partition(":")
            name = name.strip().strip("?")
            if not _NAME.fullmatch(name):
                raise _refusal(number, "a rule must begin with its name")
            rules[name] = [_alternative(definition, number)]
    if not rules:
        raise BadRequestError("the grammar has no rules", None)
    used = {
        word
        for alternatives in rules.values()
        for alternative in alternatives
        for word in _NAME.findall(_DOUBLE_QUOTED.sub("", alternative))
    }
    if missing := sorted(used - rules.keys()):
        raise BadRequestError(f"the grammar does not define the rule {missing[0][:100]}", None)
    root = "start" if "start" in rules else next(iter(rules))
    # A rule of the client's that is called root would be the root already.
    lines = [] if root == "root" else [f"root ::= {root}"]
    return "\n".join(lines + [f"{name} ::= {' | '.join(rule)}" for name, rule in rules.items()])


def _lines(grammar: str) -> list[str]:
    return [_COMMENT.sub("", line).strip() for line in grammar.split("\n")]


def _alternative(text: str, number: int) -> str:
    if text.count("'") % 2 or text.count('"') % 2:
        raise _refusal(number, "a quote is not closed")
    return _SINGLE_QUOTED.sub(r'"\1"', text).strip()


def _refusal(line: int, problem: str) -> BadRequestError:
    return BadRequestError(f"the grammar's line {line}: {problem}", None)
