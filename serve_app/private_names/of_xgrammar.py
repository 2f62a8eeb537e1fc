"""The names of xgrammar that this package replaces under vLLM, and those of its compiled part."""

from __future__ import annotations

from functools import partial

from serve_app.private_names.name import PrivateName

GRAMMARS = "serve_app.vllm_worker.grammars"
CHECKER = "serve_app.grammars.worker"

_BACKEND = "vllm.v1.structured_output.backend_xgrammar:XgrammarBackend"
_WRONG = "grammars get parts of other grammars, and markers of harmony are not tokens to them"

_MASKS = partial(PrivateName, used_in=(GRAMMARS,), test="tests/unit/vllm_worker/test_grammars.py")
_COMPILED = partial(
    PrivateName,
    used_in=(CHECKER,),
    test="tests/unit/grammars/test_checker.py",
    # The processes that check grammars load them without their package; whoever has it has these too.
    is_costly=True,
    without_it="no grammar can be checked, so that requests with one are refused",
)
_FFI = "xgrammar.tvm_ffi_binding._ffi_api"

NAMES: tuple[PrivateName, ...] = (
    _MASKS(
        path="xgrammar:TokenizerInfo.from_huggingface",
        parameters=("tokenizer", "vocab_size"),
        looked_up_by=(f"{_BACKEND}.__post_init__",),
        without_it=_WRONG,
    ),
    _MASKS(
        path="xgrammar:GrammarCompiler",
        parameters=("tokenizer_info", "max_threads", "cache_enabled", "cache_limit_bytes"),
        looked_up_by=(f"{_BACKEND}.__post_init__",),
        without_it=_WRONG,
    ),
    *(
        _MASKS(
            path=f"xgrammar:GrammarCompiler.compile_{kind}",
            looked_up_by=(f"{_BACKEND}.compile_grammar",),
            without_it=_WRONG,
        )
        for kind in ("json_schema", "regex", "grammar", "structural_tag")
    ),
    _COMPILED(path="xgrammar.load_binding"),
    _COMPILED(path=_FFI),
    *(
        _COMPILED(path=f"{_FFI}:{name}")
        for name in (
            "TokenizerInfo",
            "Grammar.from_structural_tag",
            "Grammar.to_string",
            "GrammarCompiler.compile_grammar_from_strings",
            "GrammarCompiler.compile_structural_tag",
            "CompiledGrammar.memory_size_bytes",
            "GrammarMatcher.accept_token",
            "GrammarMatcher.accept_string",
            "GrammarMatcher.fill_next_token_bitmask",
            "GrammarMatcher.is_completed",
            "GrammarMatcher.reset",
        )
    ),
)
