"""Shapes of gpt-oss models and EAGLE3 speculators, and the bytes of their weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BF16_BYTES = 2.0
# MXFP4: 4 bits a weight, and one scale byte for every 32 weights.
MXFP4_BYTES = (4 * 32 + 8) / 8 / 32


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A gpt-oss model. Biases, norms, attention, router, embeddings and output head are bfloat16."""

    name: str
    num_layers: int
    num_sliding_layers: int
    hidden_size: int
    intermediate_size: int
    num_experts: int
    experts_per_token: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int
    vocabulary: int
    has_mxfp4_experts: bool = True

    @property
    def checkpoint_bytes(self) -> int:
        """The tensors as they are in the checkpoint's files, and in RAM."""
        return self._weights_bytes(self.hidden_size, self.intermediate_size)

    @property
    def gpu_weights_bytes(self) -> int:
        """The most that they take on an H100: vLLM's Marlin kernels pad each expert's weights.

        To multiples of 256 (hidden) and 128 (`mxfp4_round_up_hidden_size_and_intermediate_size`).
        The Triton kernels, which vLLM prefers where it can use them, pad neither size of gpt-oss.
        """
        if not self.has_mxfp4_experts:
            return self.checkpoint_bytes
        return self._weights_bytes(_round_up(self.hidden_size, 256), _round_up(self.intermediate_size, 128))

    def _weights_bytes(self, expert_hidden: int, expert_intermediate: int) -> int:
        hidden = self.hidden_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = (hidden + 1) * (queries + 2 * keys) + (queries + 1) * hidden + self.num_heads  # and sinks
        router = (hidden + 1) * self.num_experts
        norms = 2 * hidden
        # Gate and up projection together, then down; the biases stay bfloat16.
        experts = 3 * expert_hidden * expert_intermediate * self.num_experts
        biases = (2 * expert_intermediate + expert_hidden) * self.num_experts
        layer = (attention + router + norms + biases) * BF16_BYTES
        layer += experts * (MXFP4_BYTES if self.has_mxfp4_experts else BF16_BYTES)
        return int(self.num_layers * layer + (2 * self.vocabulary + 1) * hidden * BF16_BYTES)


@dataclass(frozen=True, kw_only=True)
class SpeculatorArchitecture:
    """An EAGLE3 speculator: one full-attention layer with its own output head, in bfloat16."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    draft_vocabulary: int
    num_layers: int = 1

    @property
    def weights_bytes(self) -> int:
        """Without token embeddings: vLLM drops them where they equal the model's, as they do in EAGLE3."""
        hidden = self.hidden_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        # Attention reads embedding and hidden state side by side; `fc` joins three of the model's layers.
        attention = 2 * hidden * (queries + 2 * keys) + queries * hidden
        layer = attention + 3 * hidden * self.intermediate_size + 3 * hidden
        head = hidden * self.draft_vocabulary + 3 * hidden * hidden + hidden
        return int((self.num_layers * layer + head) * BF16_BYTES)


def _gpt_oss(name: str, num_layers: int, num_experts: int) -> Architecture:
    return Architecture(
        name=name,
        num_layers=num_layers,
        num_sliding_layers=num_layers // 2,
        hidden_size=2880,
        intermediate_size=2880,
        num_experts=num_experts,
        experts_per_token=4,
        num_heads=64,
        num_kv_heads=8,
        head_dim=64,
        sliding_window=128,
        vocabulary=201088,
    )


GPT_OSS_20B = _gpt_oss("gpt-oss-20b", 24, 32)
GPT_OSS_120B = _gpt_oss("gpt-oss-120b", 36, 128)
# The shape that published EAGLE3 speculators of both models share.
GPT_OSS_EAGLE3 = SpeculatorArchitecture(
    hidden_size=2880,
    intermediate_size=17280,
    num_heads=64,
    num_kv_heads=8,
    head_dim=64,
    draft_vocabulary=64000,
)


def from_config_json(path: str | Path) -> Architecture:
    """Returns the shape of the gpt-oss checkpoint whose `config.json`, or the folder of it, is `path`.

    Raises `OSError` where there is none, `ValueError` where it is not a gpt-oss config.
    """
    folder, config = _read(path)
    try:
        return Architecture(
            name=folder.name,
            num_layers=config["num_hidden_layers"],
            num_sliding_layers=config["layer_types"].count("sliding_attention"),
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_experts=config["num_local_experts"],
            experts_per_token=config["num_experts_per_tok"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            sliding_window=config["sliding_window"],
            vocabulary=config["vocab_size"],
            has_mxfp4_experts=(config.get("quantization_config") or {}).get("quant_method") == "mxfp4",
        )
    except KeyError as error:
        raise ValueError(f"{folder}: no {error} in config.json; not a gpt-oss checkpoint") from None


def speculator_from_config_json(path: str | Path) -> SpeculatorArchitecture:
    """Returns the shape of the EAGLE3 speculator at `path`; raises as `from_config_json` does."""
    folder, config = _read(path)
    # Speculators in the `speculators` format keep the layer's shape one level down.
    layer = config.get("transformer_layer_config", config)
    try:
        return SpeculatorArchitecture(
            hidden_size=layer["hidden_size"],
            intermediate_size=layer["intermediate_size"],
            num_heads=layer["num_attention_heads"],
            num_kv_heads=layer["num_key_value_heads"],
            head_dim=layer["head_dim"],
            draft_vocabulary=config["draft_vocab_size"],
            num_layers=layer["num_hidden_layers"],
        )
    except KeyError as error:
        raise ValueError(f"{folder}: no {error} in config.json; not an EAGLE3 speculator") from None


def _read(path: str | Path) -> tuple[Path, dict[str, Any]]:
    folder = Path(path)
    folder = folder.parent if folder.name == "config.json" else folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{folder}: config.json is not an object")
    return folder, config


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
