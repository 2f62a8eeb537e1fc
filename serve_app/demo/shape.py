"""Sizes of the demo checkpoint, and the Hugging Face configurations that follow from them."""

from dataclasses import dataclass
from typing import Any

RETURN, END_OF_TEXT, CALL = 200002, 199999, 200012


@dataclass(frozen=True)
class Shape:
    """What gpt-oss has, kept small. Names are those of the Hugging Face configuration where it has one."""

    # Decoding on a CPU reads vocab_size * hidden_size * 2 bytes every step: the width is the price of a
    # token.
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    # Two, so that tensor parallelism over two devices divides the heads.
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_local_experts: int = 8
    num_experts_per_tok: int = 4
    intermediate_size: int = 256
    sliding_window: int = 128
    vocab_size: int = 201088
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150000.0
    yarn_factor: float = 32.0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    original_max_position_embeddings: int = 4096
    max_position_embeddings: int = 131072
    speculator_intermediate_size: int = 512
    # vLLM counts "before layer i"; the last is what the final norm sees, the best hint about the next token.
    aux_layers: tuple[int, int, int] = (2, 4, 6)


SHAPE = Shape()


def model_config(shape: Shape, mxfp4: bool) -> dict[str, Any]:
    """`config.json` of the model, with the fields of the real release.

    Args:
        mxfp4: experts in MXFP4 as released; otherwise the very same values in bfloat16.
    """
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "eos_token_id": RETURN,
        "experts_per_token": shape.num_experts_per_tok,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": shape.original_max_position_embeddings,
        "intermediate_size": shape.intermediate_size,
        "layer_types": ["sliding_attention", "full_attention"] * (shape.num_hidden_layers // 2),
        "max_position_embeddings": shape.max_position_embeddings,
        "num_attention_heads": shape.num_attention_heads,
        "num_experts_per_tok": shape.num_experts_per_tok,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "num_local_experts": shape.num_local_experts,
        "output_router_logits": False,
        "pad_token_id": END_OF_TEXT,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": shape.yarn_factor,
            "beta_fast": shape.yarn_beta_fast,
            "beta_slow": shape.yarn_beta_slow,
            "original_max_position_embeddings": shape.original_max_position_embeddings,
            "truncate": False,
        },
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": 0.0,
        "sliding_window": shape.sliding_window,
        "swiglu_limit": shape.swiglu_limit,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }
    if mxfp4:
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
    return config


def speculator_config(shape: Shape, draft_vocab_size: int) -> dict[str, Any]:
    """`config.json` of the speculator, as vLLM's EAGLE3 loader reads it."""
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": 199998,
        "draft_vocab_size": draft_vocab_size,
        "dtype": "bfloat16",
        "eagle_aux_hidden_state_layer_ids": list(shape.aux_layers),
        "eos_token_id": RETURN,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.speculator_intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "mlp_bias": False,
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": 1,
        "num_key_value_heads": shape.num_key_value_heads,
        "pad_token_id": END_OF_TEXT,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "target_hidden_size": shape.hidden_size,
        "tie_word_embeddings": False,
        "vocab_size": shape.vocab_size,
    }


def generation_config() -> dict[str, Any]:
    """`generation_config.json`. Without 200012 among the stops a function call would run on."""
    return {"do_sample": True, "eos_token_id": [RETURN, END_OF_TEXT, CALL], "pad_token_id": END_OF_TEXT}
