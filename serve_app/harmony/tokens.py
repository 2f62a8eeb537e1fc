"""The vocabulary of harmony: special tokens, the bytes of all tokens, and text to ordinary tokens.

openai-harmony encodes, but in time that grows with the square of a word's length: a word of 20,000 letters
takes half a second, one of a million ends in a Rust panic, and nobody else runs meanwhile since it keeps the
interpreter's lock. So text goes to it in slices that end where a token ends anyway, and a stretch in which
none must end is cut (`_MAX_STRETCH_CHARS`). All that is encoded this way costs the same a byte.
"""

from __future__ import annotations

import binascii
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from openai_harmony import HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding

from serve_app.harmony import vocabulary_file

# The first of the special tokens; all below are text.
FIRST_SPECIAL = 199998
# Those that the model knows. openai-harmony has a name for one more, with which an engine would fail.
NUM_TOKENS = 201088
ENDOFTEXT = 199999
RETURN = 200002
CONSTRAIN = 200003
CHANNEL = 200005
START = 200006
END = 200007
MESSAGE = 200008
CALL = 200012

# What may be the name of a special token.
_SPECIAL = re.compile(r"<\|[a-z0-9_]+\|>")

# The longest token is 128 bytes (spaces).
MAX_TOKEN_BYTES = 128

# A stretch of this many characters without a place where tokens must part is cut. Words are much shorter in
# every language; ten times as long ones would cost ten times as much a byte.
_MAX_STRETCH_CHARS = 256
# Other threads get their turn between two slices: one is encoded in some 1 ms.
_SLICE_CHARS = 4 * 1024

# Where o200k's pattern always parts two pieces, and no token spans two pieces: between a letter or digit and
# a space or mark (an apostrophe may belong to a word: "it's"), and between a letter and a digit.
# Beside ASCII's: punctuation of scripts that are written without spaces.
_MARKS = r"!-&(-/:-@\[-`{-~\u3001\u3002\u300a-\u300f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
_BOUNDARY = re.compile(rf"(?<=[^\W_])[\s{_MARKS}]|(?<=[^\W\d_])\d")


class Vocabulary:
    """The tokens of harmony. Loading takes a second, nearly all of it openai-harmony's; see `load`."""

    def __init__(self, encoding: HarmonyEncoding, token_bytes: list[bytes]) -> None:
        self.encoding = encoding
        self.token_bytes = token_bytes
        """The bytes of each token by its id, for hot loops; a special token's are its name's."""
        self._special = {
            token_bytes[token].decode(): token for token in range(FIRST_SPECIAL, len(token_bytes))
        }

    @classmethod
    def load(cls) -> Vocabulary:
        """Returns the vocabulary, the same object at each call of a process."""
        return _load()

    def bytes_of(self, token_id: int) -> bytes:
        """Returns the bytes of a token: of a special one those of its name, of an unknown one none."""
        return self.token_bytes[token_id] if 0 <= token_id < len(self.token_bytes) else b""

    def encode(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Returns the ordinary tokens of a text, whatever it contains; never a special one.

        Where the text has more than `max_tokens`, it may end early with any number above that.

        Half of a surrogate pair counts as U+FFFD. The time is linear in the length. Tokens are
        openai-harmony's, except at a cut in the middle of a stretch of over `_MAX_STRETCH_CHARS` characters.
        """
        if len(text) <= _MAX_STRETCH_CHARS:
            return self._encode(text)
        tokens: list[int] = []
        for part in _slices(text):
            tokens += self._encode(part)
            if max_tokens is not None and len(tokens) > max_tokens:
                break
        return tokens

    def encode_prompt(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Returns the tokens of a whole prompt: special ones where their names stand in the text.

        Where the text has more than `max_tokens`, it may end early with any number above that.
        """
        tokens: list[int] = []
        start = 0
        for match in _SPECIAL.finditer(text):
            if (token := self._special.get(match[0])) is not None:
                if start < match.start():
                    tokens += self.encode(text[start : match.start()], max_tokens)
                tokens.append(token)
                start = match.end()
                if max_tokens is not None and len(tokens) > max_tokens:
                    return tokens
        return tokens + self.encode(text[start:], max_tokens)

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self.encoding.encode(text, disallowed_special=())
        return tokens


def min_tokens(num_bytes: int) -> int:
    """Returns how many tokens a text of that many bytes has at least."""
    return -(-num_bytes // MAX_TOKEN_BYTES)


def _slices(text: str) -> Iterator[str]:
    """Yields parts of a text that make it up, short and without a long stretch that is one piece."""
    start = boundary = 0
    for block in range(0, len(text), _MAX_STRETCH_CHARS):
        end = block + _MAX_STRETCH_CHARS
        found = _BOUNDARY.search(text, block, end)
        if found is None and end <= len(text) and not text[block:end].isdecimal():
            # One stretch, all through: it ends here. Digits are no matter, since pieces have three at most.
            yield text[start:end]
            start = boundary = end
            continue
        if found is not None:
            boundary = found.start()
        if end - start >= _SLICE_CHARS:
            cut = boundary if boundary > start else min(end, len(text))
            yield text[start:cut]
            start = boundary = cut
    if start < len(text):
        yield text[start:]


@functools.cache
def _load() -> Vocabulary:
    vocabulary_file.install()
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    # A line is a token's bytes in base 64 and its rank, in the order of ranks.
    words = Path(os.environ[vocabulary_file.VARIABLE], "o200k_base.tiktoken").read_bytes().split()
    token_bytes = list(map(binascii.a2b_base64, words[::2]))
    names = (encoding.decode([token]) for token in range(FIRST_SPECIAL, NUM_TOKENS))
    token_bytes += [name.encode() for name in names]
    return Vocabulary(encoding, token_bytes)
