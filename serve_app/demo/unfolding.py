"""Unfold the committed data into ordinary folders: the model, its speculator and the vocabulary.

A folder is complete when its mark holds the digest of what it was made from. Everything is written beside its
place and renamed there, so another process sees all of a folder or nothing of it.
"""

import hashlib
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path

from serve_app.demo import DATA, MODEL_NAME, SPECULATOR_NAME, VOCABULARY_NAME, checkpoint
from serve_app.demo.shape import SHAPE, generation_config, model_config, speculator_config

WEIGHTS_FILE = "weights.safetensors.xz"
VOCABULARY_FILE = "o200k_base.tiktoken"
VOCABULARY_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
MARK = ".made-from"
# Changes when the same data unfolds into other files.
FORMAT = "1"


def vocabulary_bytes() -> bytes:
    """The committed vocabulary, verified."""
    content = lzma.decompress((DATA / f"{VOCABULARY_FILE}.xz").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if digest != VOCABULARY_SHA256:
        raise ValueError(f"the committed vocabulary is damaged: sha256 {digest}, not {VOCABULARY_SHA256}")
    return content


def experts_for_this_machine() -> str:
    """Returns "mxfp4" where vLLM can compute with it at this model's width, else "bfloat16".

    That is on CPUs with AMX. vLLM's Triton kernels for GPUs refuse experts this narrow when they compile.
    """
    import torch

    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "mxfp4" if amx() and not torch.cuda.is_available() else "bfloat16"


def _place(folder: Path, mark: str, write: Callable[[Path], None]) -> bool:
    """Fill `folder` by `write` unless its mark says that it is complete. True if it was written."""
    if (folder / MARK).is_file() and (folder / MARK).read_text() == mark:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        made = Path(scratch, "new")
        made.mkdir()
        write(made)
        (made / MARK).write_text(mark)
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        try:
            made.rename(folder)
        except OSError:
            # Another process was faster; what it placed is as good.
            if not (folder / MARK).is_file():
                raise
    return True


def place_vocabulary(folder: Path, content: Callable[[], bytes] = vocabulary_bytes) -> bool:
    """Make `folder`, the one that openai-harmony wants named in TIKTOKEN_ENCODINGS_BASE.

    `content`, asked for only where the folder is not complete, gives the verified vocabulary. True if it was
    written.
    """
    return _place(folder, VOCABULARY_SHA256, lambda made: _write_vocabulary(made, content))


def _write_vocabulary(folder: Path, content: Callable[[], bytes] = vocabulary_bytes) -> None:
    (folder / VOCABULARY_FILE).write_bytes(content())


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_model(folder: Path, vocabulary: Path, mxfp4: bool) -> None:
    import safetensors.torch

    from serve_app.demo.tokenizer import write_tokenizer

    tensors = checkpoint.target_tensors(checkpoint.load(DATA / WEIGHTS_FILE), SHAPE, packed=mxfp4)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", model_config(SHAPE, mxfp4))
    _write_json(folder / "generation_config.json", generation_config())
    write_tokenizer(vocabulary, folder)


def _write_speculator(folder: Path) -> None:
    import safetensors.torch

    compact = checkpoint.load(DATA / WEIGHTS_FILE)
    tensors = checkpoint.draft_tensors(compact, SHAPE)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", speculator_config(SHAPE, len(compact[checkpoint.ROWS])))


def unfold(folder: Path, experts: str = "auto", say: Callable[[str], None] = print) -> None:
    """Make `folder/gpt-oss-demo`, `folder/gpt-oss-demo-eagle3` and `folder/vocabulary`.

    Args:
        experts: "mxfp4" as in the gpt-oss release, "bfloat16" with the same values, or "auto" for what vLLM
            can run here.
        say: told what is done.
    """
    folder = folder.absolute()
    if experts == "auto":
        experts = experts_for_this_machine()
    weights = hashlib.sha256((DATA / WEIGHTS_FILE).read_bytes()).hexdigest()
    vocabulary = folder / VOCABULARY_NAME
    steps: list[tuple[Path, str, Callable[[Path], None]]] = [
        (vocabulary, VOCABULARY_SHA256, _write_vocabulary),
        (
            folder / MODEL_NAME,
            f"{FORMAT} {experts} {weights}",
            lambda made: _write_model(made, vocabulary / VOCABULARY_FILE, experts == "mxfp4"),
        ),
        (folder / SPECULATOR_NAME, f"{FORMAT} {weights}", _write_speculator),
    ]
    for path, mark, write in steps:
        written = _place(path, mark, write)
        detail = f" ({experts} experts)" if path.name == MODEL_NAME else ""
        say(f"{'wrote' if written else 'have'} {path}{detail}")
