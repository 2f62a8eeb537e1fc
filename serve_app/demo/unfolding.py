"""Unfold the committed data into ordinary folders: the model, its speculator and the vocabulary."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from serve_app import folders
from serve_app.demo import DATA, MODEL_NAME, SPECULATOR_NAME, VOCABULARY_NAME, checkpoint
from serve_app.demo.shape import SHAPE, generation_config, model_config, speculator_config
from serve_app.harmony.vocabulary_file import FILE_NAME, SHA256, write_packaged

WEIGHTS_FILE = "weights.safetensors.xz"
# Changes when the same data unfolds into other files.
FORMAT = "1"


def experts_for_this_machine() -> str:
    """Returns "mxfp4" where vLLM can compute with it at this model's width, else "bfloat16".

    That is on CPUs with AMX. vLLM's Triton kernels for GPUs refuse experts this narrow when they compile.
    """
    import torch

    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "mxfp4" if amx() and not torch.cuda.is_available() else "bfloat16"


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
        (vocabulary, SHA256, write_packaged),
        (
            folder / MODEL_NAME,
            f"{FORMAT} {experts} {weights}",
            lambda made: _write_model(made, vocabulary / FILE_NAME, experts == "mxfp4"),
        ),
        (folder / SPECULATOR_NAME, f"{FORMAT} {weights}", _write_speculator),
    ]
    for path, mark, write in steps:
        written = folders.place(path, mark, write)
        detail = f" ({experts} experts)" if path.name == MODEL_NAME else ""
        say(f"{'wrote' if written else 'have'} {path}{detail}")
