"""Double quantisation: the blocks' scales are rounded too, to eight bits. Chapter 11.

With blocks of 64 the scales cost 32/64 = 0.5 bits a weight; rounded, 8/64 + 32/(64·256) = 0.127. Source: Dettmers et al. 2023 (QLoRA),
§3, arXiv:2305.14314.
"""

from typing import NamedTuple

from torch import Tensor

from lora_edu.models.quantized.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.models.quantized.codebooks import dynamic_map

SCALES_A_BLOCK = 256


class Scales(NamedTuple):
    """Scales in eight bits: absmax_j = dynamic8[codes_j] · absmax[j // 256] + offset."""

    codes: Tensor  # (blocks,), uint8
    absmax: Tensor  # (⌈blocks/256⌉,), float32
    offset: Tensor  # (), float32: the mean, without which all scales would lie on one side of 0


def double_quantize(absmax: Tensor, rungs: int | None = None) -> Scales:
    """absmax (blocks,) float32 → `Scales`: the mean is taken off, the rest rounded to `dynamic8` in blocks of 256. Chapter 11.

    rungs=RUNGS gives bitsandbytes' bits on a CPU; without it every scale gets its nearest number, as on a GPU.
    """
    offset = absmax.mean()
    codes, outer = quantize_blockwise(absmax - offset, dynamic_map(absmax.device), SCALES_A_BLOCK, rungs)
    return Scales(codes, outer, offset)


def double_dequantize(scales: Scales) -> Tensor:
    """The scales again (blocks,), float32."""
    numbers = dynamic_map(scales.codes.device)
    return dequantize_blockwise(scales.codes, scales.absmax, numbers, SCALES_A_BLOCK).add_(scales.offset)
