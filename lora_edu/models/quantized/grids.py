"""The grid of GGUF's Q4_1: where weights lie that came from such a file, and what rounding to it again does. Chapter 11.

Sixteen equal steps between the smallest and the largest of 32 weights. The course's own model was such a file, so its weights lie on
that grid exactly: rounding them to it again changes nothing, and rounding a merged weight to it forgets all of the update that is
smaller than half a step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lora_edu.errors import ConfigError

BLOCK = 32


class Grid(NamedTuple):
    """A weight's own grid: weight = step · k + least, k = 0 … 15, in blocks of 32 along each row."""

    step: Tensor  # (blocks, 1), float32 with float16's digits
    least: Tensor  # (blocks, 1), the same

    @classmethod
    def of(cls, weight: Tensor) -> "Grid":
        """The grid that Q4_1 gives `weight` (…, a multiple of 32): step = (largest - smallest)/15, both stored as float16."""
        blocks = _blocks(weight)
        least, most = blocks.aminmax(dim=1, keepdim=True)
        return cls(((most - least) / 15).half().float(), least.half().float())

    def snap(self, weight: Tensor) -> Tensor:
        """`weight` rounded to this grid, in its own type; what lies beyond an end goes to the end."""
        blocks = _blocks(weight)
        k = torch.where(self.step > 0, (blocks - self.least) / self.step, 0)
        return (self.step * k.round().clamp_(0, 15) + self.least).view(weight.shape).to(weight.dtype)


def q4_1(weight: Tensor) -> Tensor:
    """`weight` written as Q4_1 and read again, bit for bit as the package gguf does it; of weights that came from Q4_1, themselves.

    Its step, unlike `Grid.snap`'s, is that before rounding to float16, and a half goes up.
    """
    blocks, grid = _blocks(weight), Grid.of(weight)
    least, most = blocks.aminmax(dim=1, keepdim=True)
    step = (most - least) / 15
    k = torch.where(step > 0, (blocks - least) * (1 / step), 0)
    return (grid.step * (k + 0.5).trunc().clamp_(0, 15) + grid.least).view(weight.shape).to(weight.dtype)


def _blocks(weight: Tensor) -> Tensor:
    if weight.shape[-1] % BLOCK:
        raise ConfigError(
            f"Q4_1 rounds {BLOCK} weights of a row together, and these rows have {weight.shape[-1]}: take a matrix whose rows divide by {BLOCK}"
        )
    return weight.detach().float().reshape(-1, BLOCK)
