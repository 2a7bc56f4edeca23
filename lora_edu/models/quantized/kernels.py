"""bitsandbytes' kernel for making packed weights dense on a GPU, where that package is installed. Chapter 11. Not measured yet.

The bytes are the same, so it reads this module's buffers as they are; numbers may differ by the kernel's own rounding. Nothing is
imported until a quantised layer on CUDA is called.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from lora_edu.models.quantized.codebooks import codebook, pairs

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # that the kernel knows


@cache
def library() -> Any:
    """bitsandbytes' functions, or None where it is not installed or does not load."""
    try:
        import bitsandbytes.functional as functional
    except Exception:  # it raises what its binaries raise
        return None
    return functional


def applies(codes: Tensor, kind: str, block_size: int) -> bool:
    """Whether the kernel is to make these codes dense: NF4 on CUDA in a block size that it knows, and it was seen to work there."""
    fits = codes.device.type == "cuda" and kind == "nf4" and block_size in BLOCKS
    return fits and works(str(codes.device))


@cache
def works(device: str) -> bool:
    """Whether the kernel, tried on every byte, gives what this module's own formula gives."""
    try:
        codes, absmax = torch.arange(256, device=device).byte(), torch.linspace(0.5, 2, 8, device=device)
        own = pairs("nf4", device).view(-1) * absmax.repeat_interleave(64)
        return torch.allclose(dense(codes, absmax, 64, (8, 64), torch.float32).view(-1), own, rtol=1e-6, atol=0)
    except Exception:  # not installed, or built for another CUDA: the formula does the work
        return False


def dense(codes: Tensor, absmax: Tensor, block_size: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """W `shape` from packed NF4 codes and float32 scales, in `dtype`."""
    state = library().QuantState(
        absmax,
        shape=torch.Size(shape),
        code=codebook("nf4", codes.device),
        blocksize=block_size,
        quant_type="nf4",
        dtype=dtype,
    )
    return library().dequantize_4bit(codes.view(-1, 1), state).reshape(shape)
