"""Random answers that a grammar allows, by the masks that an engine would sample under.

A program, since xgrammar is loaded without torch here as in a grammar worker: standard input has a JSON list
of structural tags, standard output one of lists of walks. A walk has its tokens, and whether it has ended.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serve_app.grammars.vocabulary import STOP_TOKENS, grammar_vocabulary
from serve_app.grammars.worker import load_xgrammar
from serve_app.harmony.tokens import FIRST_SPECIAL, Vocabulary
from serve_app.vllm_worker.compile_threads import CompileSlots
from serve_app.vllm_worker.grammars import IsolatedCompiler

ROOT = Path(__file__).parents[3]
MAX_TOKENS = 160
# What brings headers and JSON to their end, and is likely to break what is neither.
HINTS = ('"', '"}', "}", "]", ":", ",", "\\", "<", "|", "json", "final", " to", "=", "functions", ".", "get")


class Walk(NamedTuple):
    tokens: list[int]
    is_ended: bool


def walks(tags: Sequence[str], num_walks: int) -> list[list[Walk]]:
    """As many answers to each tag. Some are cut at `MAX_TOKENS`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.harmony.grammar_walks", str(num_walks)],
        cwd=ROOT,
        input=json.dumps(list(tags)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [[Walk(*walk) for walk in group] for group in json.loads(done.stdout)]


def main(num_walks: int) -> None:
    xgrammar = load_xgrammar()
    vocabulary = Vocabulary.load()
    tokens = grammar_vocabulary(vocabulary)
    info = xgrammar.TokenizerInfo(tokens, 0, len(tokens), list(STOP_TOKENS), False)
    compiler = IsolatedCompiler(
        lambda: _Compiler(xgrammar, info),
        lambda tag: str(xgrammar.Grammar.from_structural_tag(tag).to_string()),
        lambda grammar: int(grammar.memory_size_bytes()),
        max_kept_bytes=1 << 30,
        slots=CompileSlots(1),
    )
    hints = [tokens.index(text.encode()) for text in HINTS]
    answers = []
    for number, tag in enumerate(json.load(sys.stdin)):
        grammar = compiler.compile_structural_tag(tag)
        answers.append([_walk(xgrammar, grammar, hints, number * num_walks + i) for i in range(num_walks)])
    json.dump(answers, sys.stdout)


class _Compiler:
    """The compiled part of xgrammar's compiler, with the names of the package's."""

    def __init__(self, xgrammar: Any, info: Any) -> None:
        self._compiler = xgrammar.GrammarCompiler(info, 2, True, -1)
        self.compile_structural_tag = self._compiler.compile_structural_tag

    def compile_grammar(self, ebnf: str) -> Any:
        return self._compiler.compile_grammar_from_strings(ebnf, "root")


def _walk(xgrammar: Any, grammar: Any, hints: Sequence[int], seed: int) -> Walk:
    matcher = xgrammar.GrammarMatcher(grammar, list(STOP_TOKENS), False, 0, None)
    choices = random.Random(seed)
    mask = np.zeros((1, 6284), dtype=np.int32)
    taken: list[int] = []
    while len(taken) < MAX_TOKENS and not matcher.is_terminated():
        mask.fill(-1)
        matcher.fill_next_token_bitmask(mask, 0, False)
        token = _choose(np.unpackbits(mask.view(np.uint8), bitorder="little"), hints, choices)
        assert matcher.accept_token(token, False), token
        taken.append(token)
    return Walk(taken, bool(matcher.is_terminated()))


def _choose(is_allowed: Any, hints: Sequence[int], choices: random.Random) -> int:
    special = [FIRST_SPECIAL + int(token) for token in np.nonzero(is_allowed[FIRST_SPECIAL:])[0]]
    likely = [token for token in hints if is_allowed[token]]
    if special and (not likely or choices.random() < 0.5):
        return choices.choice(special)
    if likely and choices.random() < 0.7:
        return choices.choice(likely)
    for _ in range(100):
        token = choices.randrange(FIRST_SPECIAL)
        if is_allowed[token]:
            return token
    return int(choices.choice(np.nonzero(is_allowed)[0]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
