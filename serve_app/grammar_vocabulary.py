"""The vocabulary as grammars see it: special tokens are no text.

vLLM gives xgrammar the tokenizer's names of special tokens as their text. A string in JSON may then hold
`<|end|>`, the token, which ends the message: the answer is cut in the middle of the string. Here each special
token has bytes that are no UTF-8, so no text matches it, and only a rule that names its id does.
"""

from __future__ import annotations

from typing import Any

from serve_app.harmony.tokens import CALL, ENDOFTEXT, FIRST_SPECIAL, RETURN, Vocabulary

# Never a byte of UTF-8.
NO_TEXT = b"\xff"
# Rows of the model's output; openai-harmony names one more token.
NUM_TOKENS = 201088
STOP_TOKENS = (RETURN, ENDOFTEXT, CALL)


def grammar_vocabulary(vocabulary: Vocabulary) -> list[bytes]:
    """Returns the bytes of each token by its id, as xgrammar is to see them.

    A special token's are `NO_TEXT` and its name: formats of free text match any bytes, but not what they
    exclude, and names can be excluded.
    """
    tokens = vocabulary.token_bytes[:NUM_TOKENS]
    return tokens[:FIRST_SPECIAL] + [NO_TEXT + name for name in tokens[FIRST_SPECIAL:]]


def install() -> None:
    """Lets vLLM's xgrammar backend use this vocabulary, in this process (an engine core).

    A tokenizer of another vocabulary is left as it is.
    """
    import xgrammar

    original = xgrammar.TokenizerInfo.from_huggingface

    def from_huggingface(tokenizer: Any, *, vocab_size: int | None = None, **options: Any) -> Any:
        if tokenizer.convert_tokens_to_ids("<|call|>") != CALL:
            return original(tokenizer, vocab_size=vocab_size, **options)
        return xgrammar.TokenizerInfo(
            grammar_vocabulary(Vocabulary.load()),
            xgrammar.VocabType.RAW,
            vocab_size=vocab_size,
            stop_token_ids=list(STOP_TOKENS),
        )

    xgrammar.TokenizerInfo.from_huggingface = from_huggingface  # type: ignore[method-assign]
