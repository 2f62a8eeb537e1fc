"""The vocabulary as grammars see it: special tokens are no text.

vLLM gives xgrammar the tokenizer's names of special tokens as their text. A string in JSON may then hold
`<|end|>`, the token, which ends the message: the answer is cut in the middle of the string. Here each special
token has bytes that are no UTF-8, so no text matches it, and only a rule that names its id does.
"""

from __future__ import annotations

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
