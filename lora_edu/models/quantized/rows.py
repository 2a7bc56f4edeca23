"""Eight bits a weight, a scale a row: how LLM.int8 stores what is no outlier. Chapter 11."""

import torch
from torch import Tensor

_SMALLEST = 1e-38


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (rows, columns) → (codes (rows, columns) int8, absmax (rows,) float32): code = round(127 · x / absmax of its row). Chapter 11.

    A half between two codes goes to the even one. A row of zeros has codes 0. Source: Dettmers et al. 2022, arXiv:2208.07339, §2.
    """
    absmax = x.detach().abs().amax(dim=1).float()
    return torch.round(x.detach() * (127.0 / absmax.clamp(min=_SMALLEST))[:, None]).to(torch.int8), absmax


def dequantize_rows(codes: Tensor, absmax: Tensor) -> Tensor:
    """(rows, columns), float32: code · absmax / 127."""
    return codes.float() * (absmax / 127)[:, None]
