"""DoRA: a row's direction is learnt by LoRA, its length by a number of its own. Chapter 10.

W' = diag(m / ‖V‖) V with V = W₀ + s·B A (out, in), ‖V‖ the lengths of V's rows (out,), m (out,) trained; at the start m = ‖W₀‖.
Trains r·(in + out) + out numbers a matrix. Source: Liu et al. 2024 (arXiv 2402.09353), equation 5; §4.3 for the constant ‖V‖.

The paper calls these lengths column norms, because it writes W as (in, out); PEFT's and this module's W is (out, in).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant, register

_MAGNITUDE = "lora_magnitude_vector"


@register
@dataclass(frozen=True)
class DoRA(Variant):
    """ΔW = (g − 1) ⊙ W₀ + g ⊙ s·B A with g = m/‖V‖, a number a row. `use_dora` in PEFT.

    ‖V‖ is worked out anew at each step and counts as a constant on the way back. It never needs the matrix B A: by rows

        ‖V‖² = ‖W₀‖² + 2s·Σ (W₀ Aᵀ) ⊙ B + s²·Σ (B (A Aᵀ)) ⊙ B,

    whose largest intermediate is (out, r). With dropout the base's share (g − 1) W₀ reads the dropped input as well, as in PEFT.
    """

    reads_base = True

    def slots(self, target: Target) -> dict[str, Slot]:
        return {**super().slots(target), _MAGNITUDE: Slot((target.shape[0],))}

    def reset(self, layer: Layer, name: str) -> None:
        super().reset(layer, name)
        layer.tensor(_MAGNITUDE, name).copy_(row_norms(layer, name))

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, B = layer.tensor("lora_A", name), layer.tensor("lora_B", name)
        g = layer.tensor(_MAGNITUDE, name) / row_norms(layer, name)  # (out,)
        h = layer.dropped(name, x)
        low = F.linear(F.linear(h, A), B)  # (..., out)
        if layer.training and layer.dropouts[name]:
            base = F.linear(h, layer.oriented(layer.base_layer.weight).to(h.dtype))
        else:
            base = base_output if layer.bias is None else base_output - layer.bias
        return (g - 1) * base + (layer.scalings[name] * g) * low

    def delta(self, layer: Layer, name: str) -> Tensor:
        A, B, m = layer.tensor("lora_A", name), layer.tensor("lora_B", name), layer.tensor(_MAGNITUDE, name)
        g = (m / row_norms(layer, name))[:, None]
        return (g - 1) * layer.oriented(layer.base_layer.weight).to(A.dtype) + layer.scalings[name] * (g * B) @ A

    def to_config(self) -> dict[str, Any]:
        return {"use_dora": True}

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> DoRA | None:
        return cls() if content.pop("use_dora", False) else None


@torch.no_grad()
def row_norms(layer: Layer, name: str) -> Tensor:
    """‖V‖ (out,) of V = W₀ + s·B A, without gradients and without building B A; in full precision under autocast, too."""
    A, B, s = layer.tensor("lora_A", name), layer.tensor("lora_B", name), layer.scalings[name]
    with torch.autocast(A.device.type, enabled=False):
        W = layer.oriented(layer.base_layer.weight).to(A.dtype)  # (out, in)
        mixed = ((W @ A.T) * B).sum(1)  # (out,): an entry for each row's inner product with its update
        update = ((B @ (A @ A.T)) * B).sum(1)
        squares = torch.linalg.vector_norm(W, dim=1).square() + 2 * s * mixed + s**2 * update
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()  # a row of zeros keeps g = 1
