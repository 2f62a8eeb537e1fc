"""The harmony vocabulary, from the checkpoint or the package and not from the network.

openai-harmony looks for `o200k_base.tiktoken` in the folder that `TIKTOKEN_ENCODINGS_BASE` names and
downloads it otherwise, in every process that renders or parses harmony.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
from pathlib import Path

from serve_app.demo import CACHE, VOCABULARY_NAME
from serve_app.demo.unfolding import VOCABULARY_SHA256, place_vocabulary, vocabulary_bytes

VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
TOKENIZER_FILE = "tokenizer.json"

logger = logging.getLogger("ray.serve")


class VocabularyError(Exception):
    """A tokenizer.json that does not hold the vocabulary of harmony."""


def install(checkpoint: str | Path | None = None) -> None:
    """Makes the vocabulary known to this process and its children.

    On a node's first use it is rebuilt from the `tokenizer.json` in the folder `checkpoint`; the package's
    own copy stands in where that is not there or is of another vocabulary. A folder that the variable
    already names is left alone. Must run before openai-harmony is first used.
    """
    if not os.environ.get(VARIABLE):
        place_vocabulary(CACHE / VOCABULARY_NAME, lambda: _content(checkpoint))
        os.environ[VARIABLE] = str(CACHE / VOCABULARY_NAME)


def _content(checkpoint: str | Path | None) -> bytes:
    if checkpoint is None:
        return vocabulary_bytes()
    try:
        return from_tokenizer(Path(checkpoint, TOKENIZER_FILE))
    except FileNotFoundError:
        return vocabulary_bytes()
    except VocabularyError as error:
        logger.warning("%s; rendering harmony with the package's own vocabulary", error)
        return vocabulary_bytes()


def from_tokenizer(path: Path) -> bytes:
    """Returns `o200k_base.tiktoken` as the `tokenizer.json` at `path` implies it, with its SHA-256 verified.

    A line is a token's bytes in base 64 and its rank. Raises `VocabularyError` where it comes out otherwise.
    """
    try:
        tokens: dict[str, int] = json.loads(path.read_bytes())["model"]["vocab"]
        characters = {character: byte for byte, character in enumerate(_byte_characters())}
        ranks = sorted(tokens.items(), key=lambda item: item[1])
        lines = (
            base64.b64encode(bytes(characters[c] for c in token)) + b" %d\n" % rank for token, rank in ranks
        )
        content = b"".join(lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VocabularyError(f"{path} is no byte-level tokenizer: {error!r}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != VOCABULARY_SHA256:
        raise VocabularyError(
            f"{path} does not hold harmony's vocabulary: its {len(tokens):,} tokens have the "
            f"SHA-256 {digest}, and o200k_base has {VOCABULARY_SHA256}"
        )
    return content


def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level tokenizers (`bytes_to_unicode` of GPT-2).

    Printable bytes of Latin-1 stand for themselves, the others for characters from 256 on.
    """
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = (chr(number) for number in range(256, 512))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]
