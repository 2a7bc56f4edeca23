"""OLoRA: start from an orthonormal basis of the base's first columns. Chapter 10.

W₀ = Q R (out, in); B₀ = Q[:, :r] (out, r), orthonormal, A₀ = R[:r] (r, in); B and A train from there, and W₀ − s·B₀ A₀ is frozen.
Trains r·(in + out) numbers a matrix, as plain LoRA. Source: Büyükakyüz 2024 (arXiv 2406.01775).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_edu.adapters.variants import Layer, register
from lora_edu.adapters.variants._offset import Offset, base_weight


@register
@dataclass(frozen=True)
class OLoRA(Offset):
    """ΔW = s·(B A − B₀ A₀) with B₀ A₀ = W₀'s projection on its first r columns. `init_lora_weights="olora"` in PEFT.

    The first r columns of Q need only the first r of W₀, and R[:r] = Q[:, :r]ᵀ W₀: no QR of the whole matrix. PEFT takes the QR of
    a Conv1D's weight as it is stored, (in, out), and so gives its factors the wrong shapes; here W₀ is always (out, in).
    """

    def first(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        W = base_weight(layer)
        r = min(len(layer.tensor("lora_A", name)), *W.shape)
        Q, _ = torch.linalg.qr(W[:, :r])  # (out, r)
        return Q.T @ W, Q

    def to_config(self) -> dict[str, Any]:
        return {"init_lora_weights": "olora"}
