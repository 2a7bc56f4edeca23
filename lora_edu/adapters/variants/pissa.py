"""PiSSA: start from what the base does most, its largest singular triplets. Chapter 10.

W₀ = U S Vᵀ (out, in); B₀ = U_r √(S_r/s) (out, r), A₀ = √(S_r/s) V_rᵀ (r, in), so that s·B₀ A₀ is W₀'s nearest matrix of rank r; B and A
train from there, and the rest of W₀ is frozen. Trains r·(in + out) numbers a matrix, as plain LoRA.
Source: Meng, Wang and Zhang 2024 (arXiv 2404.02948).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lora_edu.adapters.variants import Layer, register
from lora_edu.adapters.variants._offset import Offset, base_weight
from lora_edu.linalg import leading_svd, truncated_svd


@register
@dataclass(frozen=True)
class PiSSA(Offset):
    """ΔW = s·(B A − B₀ A₀) with s·B₀ A₀ the best rank-r part of W₀. `init_lora_weights="pissa"` in PEFT.

    exact   False finds the triplets by subspace iteration, many times faster on a large matrix and nearly the largest ones (PEFT's
            "pissa_niter_4" does so from a random start); ΔW begins at 0 either way.
    """

    exact: bool = True

    def first(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        W = base_weight(layer)
        r = min(len(layer.tensor("lora_A", name)), *W.shape)
        U, S, Vh = truncated_svd(W, r) if self.exact else leading_svd(W, r)
        root = (S / layer.scalings[name]).sqrt()
        return root[:, None] * Vh, U * root

    def to_config(self) -> dict[str, Any]:
        return {"init_lora_weights": "pissa", "pissa_exact": self.exact}
