"""The gpt-oss architecture in plain torch, for training: what vLLM and transformers compute.

Differences serve training only: documents are packed into rows and masked, all experts are computed and the
unchosen ones weighted with zero (eight small experts cost less than the launches to skip them), and two
switches imitate what serving will do to the numbers: MXFP4 experts and an fp8 key-value cache.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from serve_app.demo import mxfp4
from serve_app.demo.shape import Shape


def yarn_table(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [length, head_dim / 2]: yarn's frequencies and attention factor, not truncated."""
    half = shape.head_dim // 2
    frequencies = shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)

    def dimension(rotations: float) -> float:
        turns = shape.original_max_position_embeddings / (rotations * 2 * math.pi)
        return half * math.log(turns) / math.log(shape.rope_theta)

    low, high = (
        max(dimension(shape.yarn_beta_fast), 0),
        min(dimension(shape.yarn_beta_slow), shape.head_dim - 1),
    )
    ramp = ((torch.arange(half, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    frequencies = frequencies / shape.yarn_factor * ramp + frequencies * (1 - ramp)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    factor = 0.1 * math.log(shape.yarn_factor) + 1.0
    return angles.cos() * factor, angles.sin() * factor


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding by halves. heads [batch, length, heads, head_dim]; cos, sin [batch, length, half]."""
    first, second = heads.float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(heads.dtype)


def blend(value: Tensor, rounded: Tensor, switch: Tensor) -> Tensor:
    """`rounded` in the forward pass where switch is 1, with a gradient as if nothing was rounded."""
    return value + switch * (rounded - value).detach()


def fp8_cached(value: Tensor, switch: Tensor) -> Tensor:
    """What a key or value reads as after an fp8 cache with scale one."""
    return blend(
        value, value.clamp(-448, 448).to(torch.float8_e4m3fn).to(value.dtype), switch.to(value.dtype)
    )


class Norm(nn.Module):
    """RMSNorm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Grouped-query attention with a learned sink logit for each head."""

    def __init__(self, shape: Shape, window: int | None) -> None:
        super().__init__()
        self.shape, self.window = shape, window
        query, key = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, query)
        self.k_proj = nn.Linear(shape.hidden_size, key)
        self.v_proj = nn.Linear(shape.hidden_size, key)
        self.o_proj = nn.Linear(query, shape.hidden_size)
        self.sinks = nn.Parameter(torch.zeros(shape.num_attention_heads))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, document: Tensor, fp8: Tensor) -> Tensor:
        """Mix [batch, length, width] within each document."""
        shape, (batch, length) = self.shape, x.shape[:2]
        groups = shape.num_attention_heads // shape.num_key_value_heads
        query = rotate(self.q_proj(x).unflatten(-1, (-1, shape.head_dim)), cos, sin)
        key = fp8_cached(rotate(self.k_proj(x).unflatten(-1, (-1, shape.head_dim)), cos, sin), fp8)
        value = fp8_cached(self.v_proj(x).unflatten(-1, (-1, shape.head_dim)), fp8)
        key, value = (t.repeat_interleave(groups, dim=2).transpose(1, 2) for t in (key, value))
        scores = (query.transpose(1, 2) @ key.transpose(2, 3)).float() * shape.head_dim**-0.5
        index = torch.arange(length, device=x.device)
        seen = index[:, None] >= index
        if self.window is not None:
            seen = seen & (index[:, None] - index < self.window)
        visible = seen & (document[:, :, None] == document[:, None, :])
        scores = scores.masked_fill(~visible.unsqueeze(1), -1e30)
        sinks = self.sinks.float().view(1, -1, 1, 1)
        largest = torch.maximum(scores.amax(-1, keepdim=True), sinks).detach()
        exponent = torch.exp(scores - largest)
        weights = exponent / (exponent.sum(-1, keepdim=True) + torch.exp(sinks - largest))
        mixed: Tensor = (weights.to(value.dtype) @ value).transpose(1, 2).reshape(batch, length, -1)
        out: Tensor = self.o_proj(mixed)
        return out


class Experts(nn.Module):
    """A router and SwiGLU experts, gate and up interleaved as in the release. Weights [experts, out, in]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        count, width, inner = shape.num_local_experts, shape.hidden_size, shape.intermediate_size
        self.router = nn.Linear(width, count)
        self.gate_up_proj = nn.Parameter(torch.randn(count, 2 * inner, width) * width**-0.5)
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(count, 2 * inner))
        self.down_proj = nn.Parameter(
            torch.randn(count, width, inner) * (2 * inner * shape.num_hidden_layers) ** -0.5
        )
        self.down_proj_bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, x: Tensor, quantised: Tensor) -> Tensor:
        """The chosen experts' shares of each token, summed."""
        shape = self.shape
        count, inner = shape.num_local_experts, shape.intermediate_size
        logits = self.router(x).float()
        rank = (logits.unsqueeze(-2) > logits.unsqueeze(-1)).sum(-1)
        shares = logits.masked_fill(rank >= shape.num_experts_per_tok, -1e30).softmax(-1)
        up_weight = blend(self.gate_up_proj, mxfp4.round_trip(self.gate_up_proj.detach()), quantised)
        down_weight = blend(self.down_proj, mxfp4.round_trip(self.down_proj.detach()), quantised)
        hidden = F.linear(x, up_weight.flatten(0, 1), self.gate_up_proj_bias.flatten())
        gate, up = hidden.view(*x.shape[:-1], count, inner, 2).float().unbind(-1)
        gate = gate.clamp(max=shape.swiglu_limit)
        up = up.clamp(-shape.swiglu_limit, shape.swiglu_limit)
        activated = (up + 1) * gate * torch.sigmoid(shape.swiglu_alpha * gate) * shares.unsqueeze(-1)
        out = F.linear(activated.flatten(-2).to(hidden.dtype), down_weight.permute(1, 0, 2).flatten(1))
        biased: Tensor = out + shares.to(out.dtype) @ self.down_proj_bias.to(out.dtype)
        return biased


class Block(nn.Module):
    """One layer. Even layers look back `sliding_window` tokens, odd ones at everything."""

    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape, shape.sliding_window if index % 2 == 0 else None)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Experts(shape)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, document: Tensor, fp8: Tensor, quantised: Tensor
    ) -> Tensor:
        """[batch, length, width] to the same; the residual stream is inside."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, document, fp8)
        mixed: Tensor = self.mlp(self.post_attention_layernorm(x), quantised)
        return x + mixed


class Model(nn.Module):
    """The model over the used rows of the vocabulary.

    Row `num_rows` stands for every other token: as input it is one "unknown" embedding, as output one row
    that counts as often as there are unused tokens. So unfolding can repeat it, and sampling over the whole
    vocabulary stays safe.
    """

    def __init__(self, shape: Shape, num_rows: int) -> None:
        super().__init__()
        self.shape, self.num_rows = shape, num_rows
        self.embed_tokens = nn.Parameter(torch.randn(num_rows + 1, shape.hidden_size) * 0.5)
        self.layers = nn.ModuleList(Block(shape, index) for index in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Parameter(torch.randn(num_rows + 1, shape.hidden_size) * 0.02)
        cos, sin = yarn_table(shape, shape.original_max_position_embeddings)
        self.cos, self.sin = nn.Buffer(cos, persistent=False), nn.Buffer(sin, persistent=False)
        # 1 where serving would round; buffers, so that switching them compiles nothing again.
        self.quantised = nn.Buffer(torch.zeros(()), persistent=False)
        self.fp8 = nn.Buffer(torch.zeros(()), persistent=False)

    def forward(self, rows: Tensor, positions: Tensor, document: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(final hidden state, hidden states before the layers in `aux_layers`). Inputs [batch, length]."""
        x = F.embedding(rows, self.embed_tokens)
        cos, sin = self.cos[positions], self.sin[positions]
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], cos, sin, document, self.fp8, self.quantised))
        return self.norm(states[-1]), [states[index] for index in self.shape.aux_layers]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., num_rows + 1]; the last stands for all unused tokens together."""
        logits = F.linear(hidden.to(torch.bfloat16 if hidden.is_cuda else hidden.dtype), self.lm_head).float()
        others = torch.zeros(self.num_rows + 1, device=logits.device)
        others[-1] = math.log(self.shape.vocab_size - self.num_rows)
        return logits + others
