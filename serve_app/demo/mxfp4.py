"""MXFP4: blocks of 32 four-bit floats (E2M1) that share one power of two (E8M0).

The layout is the one of the gpt-oss release: `blocks` holds two values a byte, the first in the low half;
`scales` holds the exponent plus 127.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 32
EXPONENT_BIAS = 127
# Code 0 to 7; codes 8 to 15 are the same with a minus.
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _exponents(blocks: "torch.Tensor") -> "torch.Tensor":
    """The smallest power of two for each block under which nothing is clipped."""
    import torch

    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0**-100)
    return torch.ceil(torch.log2(largest / MAGNITUDES[-1])).clamp(-EXPONENT_BIAS, 127)


def _round(scaled: "torch.Tensor") -> "torch.Tensor":
    """Nearest representable magnitude, ties away from zero; |scaled| <= 6."""
    import torch

    size = scaled.abs()
    step = torch.where(size < 2.0, 0.5, torch.where(size < 4.0, 1.0, 2.0))
    return torch.sign(scaled) * torch.floor(size / step + 0.5) * step


def round_trip(weight: "torch.Tensor") -> "torch.Tensor":
    """`weight` as it will be after packing; blocks run along the last dimension. Same shape and type."""
    import torch

    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    scale = torch.exp2(_exponents(blocks))
    return (_round(blocks / scale) * scale).flatten(-2).to(weight.dtype)


def pack(weight: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """(blocks [..., n / 32, 16] uint8, scales [..., n / 32] uint8) of weight [..., n]."""
    import torch

    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    exponents = _exponents(blocks)
    rounded = _round(blocks / torch.exp2(exponents))
    magnitudes = torch.tensor(MAGNITUDES, device=weight.device)
    codes = torch.searchsorted(magnitudes, rounded.abs().contiguous()) + 8 * (rounded < 0)
    codes = codes.to(torch.uint8)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed, (exponents.squeeze(-1) + EXPONENT_BIAS).to(torch.uint8)


def unpack(blocks: "torch.Tensor", scales: "torch.Tensor") -> "torch.Tensor":
    """The float32 weight [..., n] behind `pack`'s result."""
    import torch

    values = torch.tensor(MAGNITUDES + tuple(-value for value in MAGNITUDES), device=blocks.device)
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    exponents = scales.to(torch.float32) - EXPONENT_BIAS
    return (values[codes.long()] * torch.exp2(exponents).unsqueeze(-1)).flatten(-2)
