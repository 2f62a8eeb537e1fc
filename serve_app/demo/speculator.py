"""The EAGLE3 draft model in plain torch: vLLM's `LlamaForCausalLMEagle3` with one layer, trained over several
steps.

At base t it reads the target's hidden states at t and token t + 1, and proposes token t + 2. Each further
step feeds its own output and the next token back in, so training unrolls the same steps that serving takes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from serve_app.demo.model import Norm, fp8_cached, rotate
from serve_app.demo.shape import Shape


def rope_table(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [length, head_dim / 2], of the plain rotary embedding."""
    half = shape.head_dim // 2
    frequencies = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


class Speculator(nn.Module):
    """Draft vocabulary: the used rows. The embedding is the target's own, so none is stored."""

    def __init__(self, shape: Shape, num_rows: int) -> None:
        super().__init__()
        self.shape = shape
        width, inner = shape.hidden_size, shape.speculator_intermediate_size
        query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.fc = nn.Linear(len(shape.aux_layers) * width, width, bias=False)
        self.input_layernorm = Norm(width, shape.rms_norm_eps)
        self.hidden_norm = Norm(width, shape.rms_norm_eps)
        self.q_proj = nn.Linear(2 * width, query, bias=False)
        self.k_proj = nn.Linear(2 * width, key, bias=False)
        self.v_proj = nn.Linear(2 * width, key, bias=False)
        self.o_proj = nn.Linear(query, width, bias=False)
        self.post_attention_layernorm = Norm(width, shape.rms_norm_eps)
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.norm = Norm(width, shape.rms_norm_eps)
        self.lm_head = nn.Parameter(torch.randn(num_rows, width) * 0.02)
        # Longer than the target's by the steps that drafting runs ahead.
        cos, sin = rope_table(shape, shape.original_max_position_embeddings + 16)
        self.cos, self.sin = nn.Buffer(cos, persistent=False), nn.Buffer(sin, persistent=False)

    def forward(
        self, aux: list[Tensor], tokens: list[Tensor], positions: Tensor, document: Tensor, fp8: Tensor
    ) -> list[Tensor]:
        """Normed hidden states of each step, for `lm_head`.

        Args:
            aux: the target's hidden states, each [batch, length, width].
            tokens: for each step the embedded input tokens; step j's entry t is token t + 1 + j.
        """
        shape = self.shape
        groups = shape.num_attention_heads // shape.num_key_value_heads
        hidden = self.fc(torch.cat(aux, dim=-1))
        length = positions.shape[1]
        index = torch.arange(length, device=positions.device)
        visible = (index[:, None] >= index) & (document[:, :, None] == document[:, None, :])
        keys: list[Tensor] = []
        values: list[Tensor] = []
        outputs = []
        for step, token in enumerate(tokens):
            cos, sin = self.cos[positions + step], self.sin[positions + step]
            x = torch.cat((self.input_layernorm(token), self.hidden_norm(hidden)), dim=-1)
            query = rotate(self.q_proj(x).unflatten(-1, (-1, shape.head_dim)), cos, sin).transpose(1, 2)
            key = fp8_cached(rotate(self.k_proj(x).unflatten(-1, (-1, shape.head_dim)), cos, sin), fp8)
            value = fp8_cached(self.v_proj(x).unflatten(-1, (-1, shape.head_dim)), fp8)
            keys.append(key.repeat_interleave(groups, dim=2).transpose(1, 2))
            values.append(value.repeat_interleave(groups, dim=2).transpose(1, 2))
            # The target's own states up to the base, then one entry for each step that was taken since.
            scores = (query @ keys[0].transpose(2, 3)).float().masked_fill(~visible.unsqueeze(1), -1e30)
            later = [(query * key).float().sum(-1, keepdim=True) for key in keys[1:]]
            weights = (torch.cat([scores, *later], dim=-1) * shape.head_dim**-0.5).softmax(-1).to(query.dtype)
            mixed = weights[..., :length] @ values[0]
            for number, value in enumerate(values[1:]):
                mixed = mixed + weights[..., length + number, None] * value
            hidden = hidden + self.o_proj(mixed.transpose(1, 2).flatten(2))
            x = self.post_attention_layernorm(hidden)
            hidden = hidden + self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
            outputs.append(self.norm(hidden))
        return outputs

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., num_rows]"""
        return F.linear(hidden.to(torch.bfloat16 if hidden.is_cuda else hidden.dtype), self.lm_head).float()
