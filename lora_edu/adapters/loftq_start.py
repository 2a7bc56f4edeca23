"""LoftQ: start the adapter where it makes up for the rounding. Chapter 11.

Rounding W to four bits leaves an error W - Q; its best rank-r part can stand in the adapter from the start. Source: Li et al. 2023
(LoftQ), algorithm 1, arXiv:2310.08659.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_names, lora_layers
from lora_edu.adapters.injection import inject
from lora_edu.adapters.layer import DEFAULT
from lora_edu.adapters.targets import plan
from lora_edu.errors import AdapterError, ConfigError
from lora_edu.models.modules import unwrap
from lora_edu.models.quantized.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.models.quantized.codebooks import codebook
from lora_edu.models.quantized.conversion import HEADS, quantize
from lora_edu.models.quantized.linear import Quantization, QuantizedLinear
from lora_edu.models.quantized.scales import double_dequantize, double_quantize


class Split(NamedTuple):
    """W ≈ Q + s·B A: `rounded` (out, in) is what Q is the rounding of; A (r, in), B (out, r)."""

    Q: Tensor
    rounded: Tensor
    A: Tensor
    B: Tensor


@dataclass(frozen=True)
class LoftQReport:
    """What LoftQ left of the rounding's error: {path: (‖W - Q₀‖/‖W‖ by rounding alone, ‖W - Q - s·B A‖/‖W‖)}."""

    layers: Mapping[str, tuple[float, float]]

    def __str__(self) -> str:
        before, after = (sum(each[i] for each in self.layers.values()) / len(self.layers) for i in (0, 1))
        return f"{len(self.layers)} matrices: {before:.2%} of W was error, {after:.2%} is left with the adapter (means)"


@torch.no_grad()
def loftq_split(
    weight: Tensor, r: int, quantization: Quantization | None = None, iterations: int = 1, s: float = 1.0
) -> Split:
    """W (out, in) as a matrix in four bits and an update of rank r, by turns: Q = round(W - s·B A), then s·B A = SVD_r(W - Q). Chapter 11.

    In float32. Each of A and B gets half of the singular values, √(S/s). More iterations bring the sum nearer to W, but Q is then no
    longer the rounding of W itself, and the adapter fits no base but its own. Raises ConfigError for less than one iteration.
    """
    if iterations < 1:
        raise ConfigError(f"iterations={iterations}: at least 1")
    how, W = quantization or Quantization(), weight.detach().float()
    rounded = W
    for _ in range(iterations):
        Q = _rounded(rounded, how)
        U, S, Vh = torch.linalg.svd(W - Q, full_matrices=False)
        root = (S[:r] / s).sqrt()
        A, B = root[:, None] * Vh[:r], U[:, :r] * root
        last, rounded = rounded, W - s * B @ A
    return Split(Q, last, A, B)


def loftq(
    model: nn.Module,
    config: LoRAConfig,
    quantization: Quantization | None = None,
    iterations: int = 1,
    name: str = DEFAULT,
    dense: Sequence[str] = HEADS,
) -> LoftQReport:
    """Round a dense `model` to four bits and put an adapter into it that starts where it makes up for the error; in place. Chapter 11.

    With one iteration (PEFT's default too) the base is `quantize(model)`'s, so that the saved adapter goes with load_base(…, bits=4).
    With more it fits this model alone. Unlike any other start it is not silent: with the adapter off, the rounded base speaks. On
    targets that stay dense it starts silent, as usual.

    Raises AdapterError where adapters are on the model, ConfigError for a variant; ModelError as `quantize` does.
    """
    inner: Any = unwrap(model)
    if adapter_names(inner):
        raise AdapterError(
            "LoftQ takes the dense weights apart, and this model has adapters already: start from a fresh base"
        )
    if config.variant is not None:
        raise ConfigError(
            f"LoftQ is a start of plain LoRA, and {type(config.variant).__name__} has its own: leave one out"
        )
    weights = {t.name: inner.get_submodule(t.name).weight for t in plan(inner, config)}
    how = quantize(inner, quantization, dense).quantization
    inject(inner, config, name)
    found = {}
    for path, layer in lora_layers(inner).items():
        base: Any = layer.base_layer
        if not isinstance(base, QuantizedLinear):
            continue
        W, (A, B) = weights[path].detach(), (factors[name] for factors in layer.factors)
        part = loftq_split(W, A.shape[0], how, iterations, layer.scalings[name])
        error = W.float() - base.dequantized(torch.float32)
        with torch.no_grad():
            base.put(part.rounded)
            A.copy_(part.A)
            B.copy_(part.B)
            left = W.float() - base.dequantized(torch.float32) - layer.scalings[name] * (B @ A).float()
        size = W.float().norm()
        found[path] = (float(error.norm() / size), float(left.norm() / size))
    return LoftQReport(found)


def _rounded(W: Tensor, how: Quantization) -> Tensor:
    numbers = codebook(how.kind, W.device)
    codes, absmax = quantize_blockwise(W, numbers, how.block_size)
    absmax = double_dequantize(double_quantize(absmax)) if how.double else absmax
    return dequantize_blockwise(codes, absmax, numbers, how.block_size).view(W.shape)
