"""A process that compiles grammars: `python -m serve_app.grammars.worker`, for `GrammarChecker`.

It finds out what an engine would get into with one. It reads frames from standard input (length and content)
and answers each with one: first the sample of the vocabulary, then structural tags, with what is the matter
with each, or nothing. The kernel kills it when one takes more CPU time than it may. It ends with its input.

The time to compile a grammar is mostly spent on looking at each token in each of its states. A sample of the
vocabulary, one token in `SAMPLING`, takes a 30th of it, which is measured here instead (`CPU_RATIO`).
xgrammar's compiled part alone is loaded: its Python part brings torch, seconds and hundreds of megabytes.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import re
import resource
import signal
import struct
import sys
import time
import types
from typing import Any, BinaryIO

import msgspec
import numpy as np

from serve_app.errors import may_be_quoted
from serve_app.grammars.bounds import bounds_problem
from serve_app.grammars.text import with_valid_strings

SAMPLING = 64
# Measured with strings of limited length, repetitions of `.` and nested ones, unions of hundreds of patterns:
# from 24 to 32. Where the time goes into building automata, it is the same with all tokens.
CPU_RATIO = 30

NICENESS = 10
MAX_GRAMMAR_BYTES = 64 * 1024 * 1024
# What a step (mask and token) may take with the sample; ordinary ones take 0.02 to 0.2 ms. With an ambiguous
# grammar it grows with every token, and all requests of the engine wait for it.
MAX_STEP_S = 2e-3
NUM_STEPS = 128
NUM_LAST_STEPS = 16
# Steps until it is seen whether any text can come to an end.
MAX_STEPS_TO_END = 96

# A thread of an engine has at least twice as much, mostly eight times.
MAX_STACK_BYTES = 1024 * 1024

# Objects and lists in one another, all of a structural tag's counted: vLLM takes no more
# (`check_json_nesting`), and says so only in the engine, where a request has waited for its turn.
MAX_NESTING = 80

TOO_DEEP = f"its objects and lists nest too deeply: with those around them, more than {MAX_NESTING} levels"
TOO_LARGE = "it takes too much memory"
TOO_SLOW = "it takes too long at each token"
NOT_UNDERSTOOD = "it is not understood"
NO_TEXT = "a text can come to a point where nothing fits it"

_FRAME = struct.Struct(">I")
_RAW = 0  # xgrammar's VocabType.RAW
# `[12:00:00] /path/file.cc:12: Check failed: (...) is false: Invalid structural tag error: the problem`
_PREFIX = re.compile(
    r"^\[[\d:]+\] \S+?:\d+: (?:Check failed: .*? is false: )?(?:Invalid structural tag error: )?", re.DOTALL
)
_MAX_PROBLEM_CHARS = 300


class Vocabulary(msgspec.Struct, frozen=True):
    """The tokens that a worker knows; all others have no text."""

    num_tokens: int
    tokens: dict[int, bytes]
    stop_tokens: list[int]
    first_special: int
    markers: tuple[int, int]
    """The tokens `<|channel|>` and `<|message|>`."""


def read_frame(stream: BinaryIO) -> bytes | None:
    """Returns the next frame's content, or None at the end."""
    head = stream.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    (length,) = _FRAME.unpack(head)
    content = stream.read(length)
    return content if len(content) == length else None


def frame(content: bytes) -> bytes:
    """Returns a frame."""
    return _FRAME.pack(len(content)) + content


class Compiler:
    """Compiles structural tags against a sample of the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._xgrammar = load_xgrammar()
        tokens = [b""] * vocabulary.num_tokens
        for token_id, text in vocabulary.tokens.items():
            tokens[token_id] = text
        self._vocabulary = vocabulary
        # Single bytes are all in the sample. These end a JSON value, most of them.
        self._closing = [tokens.index(text) for text in (b'"', b"}", b"]", b":")]
        self._info = self._xgrammar.TokenizerInfo(
            tokens, _RAW, vocabulary.num_tokens, vocabulary.stop_tokens, False
        )
        self._mask = np.zeros((1, -(-vocabulary.num_tokens // 32)), dtype=np.int32)

    def problem(self, structural_tag: str) -> str | None:
        """Returns what is the matter with a structural tag, or None."""
        if nests_deeper(structural_tag, MAX_NESTING):
            return TOO_DEEP
        if problem := _out_of_bounds(structural_tag):
            return problem
        try:
            return self._compiled_problem(structural_tag)
        except MemoryError:
            return TOO_LARGE
        except Exception as error:  # whatever xgrammar says no with
            if type(error) is not RuntimeError:
                return NOT_UNDERSTOOD
            return TOO_LARGE if "bad_alloc" in str(error) else _plain(str(error))

    def _compiled_problem(self, structural_tag: str) -> str | None:
        # A compiler of its own, as in `IsolatedCompiler`.
        compiler = self._xgrammar.GrammarCompiler(self._info, 1, True, -1)
        text = self._xgrammar.Grammar.from_structural_tag(structural_tag).to_string()
        if (valid := with_valid_strings(text)) != text:
            grammar = compiler.compile_grammar_from_strings(valid, "root")
        else:
            grammar = compiler.compile_structural_tag(structural_tag)
        if grammar.memory_size_bytes() > MAX_GRAMMAR_BYTES:
            return TOO_LARGE
        if not self._can_end(grammar):
            return NO_TEXT
        return None if self._is_quick(grammar) else TOO_SLOW

    def _can_end(self, grammar: Any) -> bool:
        """Whether a text that ends as soon as it can does so, or is still on its way after some steps."""
        matcher = self._matcher(grammar)
        _enter_content(matcher, self._vocabulary)
        choices = random.Random(0)
        for _ in range(MAX_STEPS_TO_END):
            allowed = self._allowed(matcher)
            if not allowed.size:
                return False
            if matcher.is_completed():
                return True
            matcher.accept_token(self._shortest_way(allowed, choices), False)
        return True

    def _shortest_way(self, allowed: Any, choices: random.Random) -> int:
        """A token that is likely to bring a text to its end."""
        if allowed[-1] >= self._vocabulary.first_special:
            return int(allowed[-1])
        for token in self._closing:
            if token in allowed:
                return token
        return int(choices.choice(allowed))

    def _is_quick(self, grammar: Any) -> bool:
        """Whether the last of some steps of a long text take no more time than they may."""
        matcher = self._matcher(grammar)
        _enter_content(matcher, self._vocabulary)
        choices = random.Random(0)
        taken = []
        for _ in range(NUM_STEPS):
            began = time.thread_time()
            allowed = self._allowed(matcher)
            texts = allowed[allowed < self._vocabulary.first_special]
            if not texts.size:
                break
            matcher.accept_token(int(choices.choice(texts)), False)
            taken.append(time.thread_time() - began)
        last = taken[-NUM_LAST_STEPS:]
        return not last or sum(last) / len(last) <= MAX_STEP_S

    def _matcher(self, grammar: Any) -> Any:
        return self._xgrammar.GrammarMatcher(grammar, self._vocabulary.stop_tokens, False, 0, None)

    def _allowed(self, matcher: Any) -> Any:
        """The ids of all tokens that may come next, ascending."""
        self._mask.fill(-1)
        matcher.fill_next_token_bitmask(self._mask, 0, False)
        return np.nonzero(np.unpackbits(self._mask.view(np.uint8), bitorder="little"))[0]


def nests_deeper(document: str, limit: int) -> bool:
    """Whether objects and lists of a JSON document stand in one another more than `limit` deep.

    False for what is no JSON.
    """
    try:
        level: list[Any] = [[msgspec.json.decode(document)]]
    except RecursionError:
        return True
    except msgspec.DecodeError:
        return False
    for _ in range(limit + 1):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _out_of_bounds(document: str) -> str | None:
    try:
        return bounds_problem(msgspec.json.decode(document))
    except msgspec.DecodeError:
        return None  # which xgrammar says better


def _enter_content(matcher: Any, vocabulary: Vocabulary) -> None:
    """Takes an answer to where its text begins, or leaves it at its beginning if there is no such way."""
    channel, message = vocabulary.markers
    if not (
        matcher.accept_token(channel, False)
        and matcher.accept_string("final", False)
        and matcher.accept_token(message, False)
    ):
        matcher.reset()


def _plain(error: str) -> str:
    """What xgrammar says, without where in its code it says so."""
    first = _PREFIX.sub("", error).strip().partition("\n")[0]
    words = first.strip().rstrip(".")[:_MAX_PROBLEM_CHARS]
    return words if may_be_quoted(words) else NOT_UNDERSTOOD


def load_xgrammar() -> Any:
    """Returns xgrammar's compiled part, without its package, which imports torch and transformers."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    spec = importlib.util.find_spec("xgrammar")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("xgrammar is not installed")
    package = types.ModuleType("xgrammar")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["xgrammar"] = package
    importlib.import_module("xgrammar.load_binding")
    return importlib.import_module("xgrammar.tvm_ffi_binding._ffi_api")


def _limit(max_memory_bytes: int) -> None:
    """Leaves the processor to others, if it has not yet, and the memory."""
    os.nice(max(NICENESS - os.nice(0), 0))
    resource.setrlimit(resource.RLIMIT_DATA, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (MAX_STACK_BYTES, most))


def main(max_cpu_s: float, max_memory_bytes: int) -> None:
    """Answers until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    first = read_frame(requests)
    if first is None:
        return
    _limit(max_memory_bytes)
    compiler = Compiler(msgspec.msgpack.decode(first, type=Vocabulary))
    answers.write(frame(b""))
    answers.flush()
    while (request := read_frame(requests)) is not None:
        # Of CPU time, in whatever code: SIGPROF's default is to end the process.
        signal.setitimer(signal.ITIMER_PROF, max_cpu_s)
        problem = compiler.problem(request.decode())
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(frame((problem or "").encode()))
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
