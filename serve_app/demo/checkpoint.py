"""The compact form of the weights, and the Hugging Face tensors it unfolds into.

Compact are only the used rows of the embeddings (one more row stands for all the others), experts packed as
MXFP4 and the rest in bfloat16; lzma over safetensors. Unfolding repeats and copies, it never rounds.
"""

import lzma
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.demo import mxfp4
from serve_app.demo.shape import Shape

if TYPE_CHECKING:
    import torch

    from serve_app.demo.model import Model
    from serve_app.demo.speculator import Speculator

Tensors = dict[str, "torch.Tensor"]

ROWS = "rows"
EXPERTS = ("gate_up_proj", "down_proj")


def to_compact(model: "Model", speculator: "Speculator | None", rows: list[int]) -> Tensors:
    """All that has to be stored; names start with `target.` or `draft.`."""
    import torch

    tensors: Tensors = {ROWS: torch.tensor(rows, dtype=torch.int32)}
    for name, value in model.state_dict().items():
        if name.rsplit(".", 1)[-1] in EXPERTS:
            tensors[f"target.{name}_blocks"], tensors[f"target.{name}_scales"] = mxfp4.pack(value.cpu())
        else:
            tensors[f"target.{name}"] = value.to(torch.bfloat16).cpu()
    if speculator is not None:
        for name, value in speculator.state_dict().items():
            tensors[f"draft.{name}"] = value.to(torch.bfloat16).cpu()
    return {name: value.contiguous() for name, value in tensors.items()}


def from_compact(tensors: Tensors, model: "Model", speculator: "Speculator | None") -> None:
    """Load what `to_compact` made."""
    import torch

    state: dict[str, Tensors] = {"target": {}, "draft": {}}
    for name, value in tensors.items():
        if name == ROWS or name.endswith("_scales"):
            continue
        owner, name = name.split(".", 1)
        if name.endswith("_blocks"):
            name = name.removesuffix("_blocks")
            value = mxfp4.unpack(value, tensors[f"target.{name}_scales"])
        state[owner][name] = value.to(torch.float32)
    model.load_state_dict(state["target"])
    if speculator is not None and state["draft"]:
        speculator.load_state_dict(state["draft"])


def with_rows(tensors: Tensors, rows: list[int]) -> Tensors:
    """The same weights over another choice of rows; new ones start as the row for all others was."""
    import torch

    old = {token: index for index, token in enumerate(tensors[ROWS].tolist())}
    result = tensors | {ROWS: torch.tensor(rows, dtype=torch.int32)}
    for name in ("target.embed_tokens", "target.lm_head", "draft.lm_head"):
        if name in tensors:
            index = torch.tensor([old.get(token, len(old)) for token in rows] + [len(old)])
            # The draft has no row for the others.
            result[name] = tensors[name][
                index if name.startswith("target") else index[:-1].clamp(max=len(old) - 1)
            ]
    return result


def save(tensors: Tensors, path: Path, preset: int = 9 | lzma.PRESET_EXTREME) -> None:
    """Write the compact file."""
    import safetensors.torch

    path.write_bytes(lzma.compress(safetensors.torch.save(tensors), preset=preset))


def load(path: Path) -> Tensors:
    """Read the compact file."""
    import safetensors.torch

    tensors: Tensors = safetensors.torch.load(lzma.decompress(path.read_bytes()))
    return tensors


def _all_rows(used: "torch.Tensor", rows: "torch.Tensor", vocab_size: int) -> "torch.Tensor":
    """[vocab_size, width]: the used rows where they belong, the last row of `used` everywhere else."""
    full = used[-1:].repeat(vocab_size, 1)
    full[rows.long()] = used[:-1]
    return full


def target_tensors(tensors: Tensors, shape: Shape, packed: bool) -> Tensors:
    """The model's tensors under the names of the gpt-oss release.

    Args:
        packed: experts as MXFP4; otherwise as the same values in bfloat16, transposed as transformers keeps
            them.
    """
    import torch

    result: Tensors = {}
    for name, value in tensors.items():
        if not name.startswith("target."):
            continue
        name = name.removeprefix("target.")
        if name in ("embed_tokens", "lm_head"):
            key = "lm_head.weight" if name == "lm_head" else "model.embed_tokens.weight"
            result[key] = _all_rows(value, tensors[ROWS], shape.vocab_size)
            continue
        if name.startswith("layers.") and ".mlp." in name and ".router." not in name:
            name = name.replace(".mlp.", ".mlp.experts.")
        name = f"model.{name}"
        if name.endswith("_blocks"):
            if packed:
                result[name] = value
            else:
                weight = mxfp4.unpack(value, tensors[_compact_scales(name)])
                result[name.removesuffix("_blocks")] = weight.transpose(1, 2).to(torch.bfloat16)
        elif packed or not name.endswith("_scales"):
            result[name] = value
    return {name: value.contiguous() for name, value in result.items()}


def _compact_scales(name: str) -> str:
    name = name.removeprefix("model.").replace(".mlp.experts.", ".mlp.")
    return "target." + name.removesuffix("_blocks") + "_scales"


def draft_tensors(tensors: Tensors, shape: Shape) -> Tensors:
    """The speculator's tensors under the names of published EAGLE3 speculators.

    `d2t` is the distance from a draft row to its token, `t2d` marks the tokens that have a draft row.
    """
    import torch

    rows = tensors[ROWS].long()
    used = torch.zeros(shape.vocab_size, dtype=torch.bool)
    used[rows] = True
    result: Tensors = {"d2t": rows - torch.arange(len(rows)), "t2d": used}
    for name, value in tensors.items():
        if not name.startswith("draft."):
            continue
        name = name.removeprefix("draft.")
        module = name.split(".", 1)[0]
        if module == "lm_head":
            name = "lm_head.weight"
        elif module in ("q_proj", "k_proj", "v_proj", "o_proj"):
            name = f"midlayer.self_attn.{name}"
        elif module in ("gate_proj", "up_proj", "down_proj"):
            name = f"midlayer.mlp.{name}"
        elif module in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
            name = f"midlayer.{name}"
        result[name] = value
    return {name: value.contiguous() for name, value in result.items()}
