"""The harmony vocabulary, from the checkpoint or the package and not from the network.

openai-harmony looks for `o200k_base.tiktoken` in the folder that `TIKTOKEN_ENCODINGS_BASE` names and
downloads it otherwise, in every process that renders or parses harmony.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import lzma
import os
from collections.abc import Callable
from pathlib import Path

from serve_app import folders

VARIABLE = "TIKTOKEN_ENCODINGS_BASE"
FILE_NAME = "o200k_base.tiktoken"
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
PACKAGED = Path(__file__).parent / "data" / f"{FILE_NAME}.xz"
CACHE = Path("~/.cache/serve_app/vocabulary").expanduser()
"""The folder of this node."""
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
        place(CACHE, lambda: _content(checkpoint))
        os.environ[VARIABLE] = str(CACHE)


def place(folder: Path, content: Callable[[], bytes]) -> bool:
    """Makes `folder`, one that openai-harmony can be given in `TIKTOKEN_ENCODINGS_BASE`.

    `content` is asked for only where the folder is not complete, and returns the verified vocabulary. True if
    it was written.
    """
    return folders.place(folder, SHA256, lambda made: _write(made, content()))


def packaged() -> bytes:
    """Returns the package's own copy, with its SHA-256 verified."""
    content = lzma.decompress(PACKAGED.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise ValueError(f"the packaged vocabulary is damaged: sha256 {digest}, not {SHA256}")
    return content


def write_packaged(folder: Path) -> None:
    """Writes the package's own copy into `folder`."""
    _write(folder, packaged())


def _write(folder: Path, content: bytes) -> None:
    (folder / FILE_NAME).write_bytes(content)


def _content(checkpoint: str | Path | None) -> bytes:
    if checkpoint is None:
        return packaged()
    try:
        return from_tokenizer(Path(checkpoint, TOKENIZER_FILE))
    except FileNotFoundError:
        return packaged()
    except VocabularyError as error:
        logger.warning("%s; rendering harmony with the package's own vocabulary", error)
        return packaged()


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
    if digest != SHA256:
        raise VocabularyError(
            f"{path} does not hold harmony's vocabulary: its {len(tokens):,} tokens have the "
            f"SHA-256 {digest}, and o200k_base has {SHA256}"
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
