"""Rounding block by block: each block of numbers is divided by its largest magnitude and sent to the nearest code. Chapter 11.

A block has a scale of its own, so that one large weight spoils its own block's resolution and no other's (Dettmers et al. 2022,
arXiv:2110.02861, §2.1).
"""

import torch
from torch import Tensor

from lora_edu.errors import ConfigError, shown

_SMALLEST = 1e-38  # what a block is divided by at least: of one that is all zeros every code is that of 0
# bitsandbytes' CPU kernel for eight bits (0.50) first rounds to so many equal steps in [-1, 1], and looks the code up in a table.
RUNGS = 65536


def nearest(values: Tensor, codebook: Tensor, rungs: int | None = None) -> Tensor:
    """The place (…), uint8, of the codebook's nearest number to each value (…); on a midpoint the lower one. Chapter 11.

    codebook: (k,), sorted. rungs: round the values to so many equal steps first, as bitsandbytes does for eight bits on a CPU.
    """
    if rungs is not None:
        step = ((values.clamp(-1, 1) + 1) * 0.5).double() * (rungs - 1) + 0.5
        values = -1 + 2 * step.float().floor() / (rungs - 1)
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    return torch.bucketize(values, midpoints, out_int32=True).to(torch.uint8)


def quantize_blockwise(
    x: Tensor, codebook: Tensor, block_size: int = 64, rungs: int | None = None
) -> tuple[Tensor, Tensor]:
    """(codes (n,) uint8, absmax (⌈n/block_size⌉,) float32) of the n numbers of `x`, row by row; the last block may be shorter. Chapter 11.

    absmax_j = max |x| over block j, code_i = nearest(x_i / absmax_j); worked out in float32, whatever x is. Equal to bitsandbytes' bit
    for bit, which multiplies by the reciprocal in whole blocks and, for four bits, divides in a short last one: so is it done here.
    Raises ConfigError for a block size below 1, and for numbers that are not finite.
    """
    check_block_size(block_size)
    flat = x.detach().reshape(-1).float()
    whole = flat.numel() // block_size * block_size
    blocks, rest = flat[:whole].view(-1, block_size), flat[whole:]
    absmax = blocks.abs().amax(dim=1)
    scaled = (blocks * (1 / absmax.clamp(min=_SMALLEST))[:, None]).view(-1)
    if rest.numel():
        last = rest.abs().amax().reshape(1)
        divisor = last.clamp(min=_SMALLEST)
        scaled = torch.cat([scaled, rest / divisor if rungs is None else rest * (1 / divisor)])
        absmax = torch.cat([absmax, last])
    if not absmax.is_meta and not bool(torch.isfinite(absmax).all()):
        raise ConfigError(
            "the weights hold values that are not finite numbers, and a block of them would have no scale"
        )
    return nearest(scaled.clamp_(-1, 1), codebook, rungs), absmax


def dequantize_blockwise(codes: Tensor, absmax: Tensor, codebook: Tensor, block_size: int = 64) -> Tensor:
    """The numbers (n,), float32, that the codes (n,) stand for: x_i = codebook[code_i] · absmax_j. Chapter 11."""
    return scale_blocks_(codebook[codes.long()], absmax, block_size)


def scale_blocks_(values: Tensor, absmax: Tensor, block_size: int) -> Tensor:
    """values (n,) times their block's absmax, in place."""
    whole = values.numel() // block_size
    values[: whole * block_size].view(-1, block_size).mul_(absmax[:whole, None])
    if whole * block_size < values.numel():
        values[whole * block_size :].mul_(absmax[-1])
    return values


def check_block_size(block_size: int) -> None:
    """Raise ConfigError for what is no number of weights that could share a scale."""
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ConfigError(
            f"block_size={shown(block_size, 60)}: so many weights share a scale, a whole number of at least 1 (64)"
        )
