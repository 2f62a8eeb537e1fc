"""How an engine core makes masks of grammars: with this project's vocabulary, and each for itself.

xgrammar 0.2.8 keeps parts of the grammars that it has compiled, for others of the same shape. It tells
tokens apart by where they stand in a table of their grammar, not by their ids: where one grammar has
`<|message|>`, another may get `<|end|>`. (`GrammarFSMHasherImpl::HashFsm` hashes `edge.max`, an index.)
So each grammar has a compiler of its own here, and whole grammars are kept.

It is compiled as the workers of `grammars.checker` have tried it, in a thread of `compile_threads`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

from serve_app import private_names
from serve_app.grammars.text import with_valid_strings
from serve_app.grammars.vocabulary import STOP_TOKENS, grammar_vocabulary
from serve_app.harmony.tokens import CALL, Vocabulary
from serve_app.stall import MAX_GRAMMAR_WAIT_S
from serve_app.vllm_worker import compile_threads
from serve_app.vllm_worker.compile_threads import CompileSlots

# Where vLLM sets no limit of its own; it does, of as much.
_MAX_KEPT_BYTES = 512 * 1024 * 1024


class IsolatedCompiler:
    """Stands in for xgrammar's `GrammarCompiler`, as far as vLLM uses it. For use by several threads."""

    def __init__(
        self,
        new_compiler: Callable[[], Any],
        text_of: Callable[[str], str],
        size_of: Callable[[Any], int],
        max_kept_bytes: int,
        slots: CompileSlots,
    ) -> None:
        """`new_compiler` makes one of xgrammar's, and `text_of` EBNF of a structural tag.

        `size_of` is what a compiled grammar takes, in bytes. Who compiles one holds one of `slots`.
        """
        self._new_compiler, self._text_of, self._size_of = new_compiler, text_of, size_of
        self._max_kept_bytes, self._slots = max_kept_bytes, slots
        self._lock = threading.Lock()
        self._grammars: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}

    def compile_structural_tag(self, *args: Any, **options: Any) -> Any:
        """As xgrammar's, and strings of limited length are valid JSON."""
        return self._compile("compile_structural_tag", args, options)

    def compile_json_schema(self, *args: Any, **options: Any) -> Any:
        """As xgrammar's."""
        return self._compile("compile_json_schema", args, options)

    def compile_regex(self, *args: Any, **options: Any) -> Any:
        """As xgrammar's."""
        return self._compile("compile_regex", args, options)

    def compile_grammar(self, *args: Any, **options: Any) -> Any:
        """As xgrammar's."""
        return self._compile("compile_grammar", args, options)

    def compile_lark(self, *args: Any, **options: Any) -> Any:
        """As xgrammar's."""
        return self._compile("compile_lark", args, options)

    def _compile(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        # vLLM gives texts, except for a form of structural tags that nobody here uses.
        key = (method, repr(args), repr(sorted(options.items())))
        with self._lock:
            future = self._grammars.get(key)
            is_ours = future is None
            if future is None:
                future = self._grammars[key] = Future()
            else:
                self._grammars.move_to_end(key)
        if not is_ours:
            # Of another thread: the choices of one request come together.
            return future.result(MAX_GRAMMAR_WAIT_S)
        try:
            with self._slots.taken():
                grammar = self._new(method, args, options)
        except BaseException as error:
            with self._lock:
                del self._grammars[key]
            future.set_exception(error)
            raise
        future.set_result(grammar)
        self._keep(key, grammar)
        return grammar

    def _new(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        compiler = self._new_compiler()
        if method == "compile_structural_tag" and len(args) == 1 and isinstance(args[0], str):
            text = self._text_of(args[0])
            if (valid := with_valid_strings(text)) != text:
                method, args = "compile_grammar", (valid,)
        return getattr(compiler, method)(*args, **options)

    def _keep(self, key: Hashable, grammar: Any) -> None:
        """Forgets the grammars that have not been used for longest, if there are too many."""
        with self._lock:
            self._sizes[key] = self._size_of(grammar)
            excess = sum(self._sizes.values()) - self._max_kept_bytes
            for old in [key for key in self._grammars if key in self._sizes]:
                if excess <= 0:
                    break
                excess -= self._sizes.pop(old)
                del self._grammars[old]


def install() -> None:
    """Lets vLLM's xgrammar backend compile this way, in this process (an engine core).

    A tokenizer of another vocabulary than harmony's is left as it is. Raises `PrivateNameError` where vLLM
    would not use it.
    """
    private_names.check(__name__)
    # Here, where all of xgrammar is imported: the workers that check grammars load its compiled part only.
    private_names.check("serve_app.grammars.worker")
    compile_threads.install()
    import xgrammar

    new_info, new_compiler = xgrammar.TokenizerInfo.from_huggingface, xgrammar.GrammarCompiler

    def from_huggingface(tokenizer: Any, *, vocab_size: int | None = None, **options: Any) -> Any:
        if tokenizer.convert_tokens_to_ids("<|call|>") != CALL:
            return new_info(tokenizer, vocab_size=vocab_size, **options)
        return xgrammar.TokenizerInfo(
            grammar_vocabulary(Vocabulary.load()),
            xgrammar.VocabType.RAW,
            vocab_size=vocab_size,
            stop_token_ids=list(STOP_TOKENS),
        )

    def compiler(tokenizer_info: Any, *, cache_limit_bytes: int = -1, **options: Any) -> IsolatedCompiler:
        def one() -> Any:
            compile_threads.yield_to_others()
            return new_compiler(tokenizer_info, **options)

        return IsolatedCompiler(
            one,
            lambda structural_tag: str(xgrammar.Grammar.from_structural_tag(structural_tag)),
            lambda grammar: int(grammar.memory_size_bytes),
            cache_limit_bytes if cache_limit_bytes >= 0 else _MAX_KEPT_BYTES,
            CompileSlots(compile_threads.num_slots()),
        )

    xgrammar.TokenizerInfo.from_huggingface = from_huggingface  # type: ignore[method-assign]
    xgrammar.GrammarCompiler = compiler  # type: ignore[assignment, misc]
