"""Two four-bit codes in a byte. Chapter 11."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.models.quantized.codebooks import CODE_OF_ZERO


def pack_codes(codes: Tensor) -> Tensor:
    """codes (n,) uint8, each below 16 → (⌈n/2⌉,) uint8: byte = even place · 16 + odd place; behind an odd n stands the code of 0."""
    codes = F.pad(codes, (0, codes.numel() % 2), value=CODE_OF_ZERO)
    return codes[::2] << 4 | codes[1::2]


def unpack_codes(packed: Tensor, n: int) -> Tensor:
    """The n codes (n,) again."""
    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1)[:n]
