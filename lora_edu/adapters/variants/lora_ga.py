"""LoRA-GA: start where the first step of full fine-tuning would go. Chapter 10.

G (out, in) is the loss's gradient with respect to W₀, averaged over some batches; G = U S Vᵀ. A₀ = V_{1…r}ᵀ (r, in) and
B₀ = c·U_{r+1…2r} S_{r+1…2r} (out, r), with c = out^¼/√γ: a step of A then moves the output in B₀'s directions and a step of B in A₀'s, which
are different ones, 2r in all, of G's largest. s·B₀ A₀ is taken out again (`_offset`). Trains r·(in + out) numbers a matrix.
Source: Wang, Yu and Li 2024, LoRA-GA (arXiv 2407.05000), §3; the scale as PEFT has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_edu.adapters.variants import Layer, register
from lora_edu.adapters.variants._offset import Offset
from lora_edu.errors import ConfigError


@register
@dataclass(frozen=True)
class LoRAGA(Offset):
    """ΔW = s·(B A − B₀ A₀) from the first gradient. `init_lora_weights="lora_ga"` in PEFT (direction "ArB2r", scale "stable").

    stable_gamma   γ of the scale c = out^¼/√γ.

    `inject(model, config, data=batches)`: dictionaries whose call gives a `loss` (with labels, that is); each goes forwards and backwards
    once, and one gradient of each adapted matrix is held meanwhile. PEFT's SVD is a randomised one, this one is exact.
    """

    stable_gamma: float = 16

    needs_data = True

    def check(self, config: Any) -> None:
        super().check(config)
        if not self.stable_gamma > 0:
            raise ConfigError(f"stable_gamma={self.stable_gamma}: a positive number")

    def start(self, model: Any, layers: Mapping[str, Layer], name: str, data: Any = None) -> None:
        gradients = _gradients(model, {path: layer.base_layer.weight for path, layer in layers.items()}, data)
        for path, layer in layers.items():
            self.reset(layer, name)  # the frozen pair has its shape; its values follow
            A, B = self._first(path, layer, name, gradients.pop(path))
            for slot, value in (("lora_A", A), ("lora_B", B)):
                for held in (slot, f"{slot}0"):
                    layer.tensor(held, name).copy_(value)

    def first(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        A, B = layer.tensor("lora_A", name), layer.tensor("lora_B", name)
        return A[:0], B[:, :0]

    def _first(self, path: str, layer: Layer, name: str, gradient: Tensor) -> tuple[Tensor, Tensor]:
        r, (n_out, n_in) = len(layer.tensor("lora_A", name)), layer.shape
        if 2 * r > min(n_out, n_in):
            raise ConfigError(
                f"LoRA-GA takes 2r = {2 * r} directions of {path}, a matrix of {n_out}×{n_in}: choose a smaller r"
            )
        U, S, Vh = torch.linalg.svd(
            layer.oriented(gradient).to(layer.tensor("lora_A", name).dtype), full_matrices=False
        )
        c = len(layer.base_layer.weight) ** 0.25 / self.stable_gamma**0.5  # PEFT's: of a Conv1D it counts the inputs
        return Vh[:r], c * U[:, r : 2 * r] * S[r : 2 * r]

    def to_config(self) -> dict[str, Any]:
        return {"init_lora_weights": "lora_ga", "stable_gamma": self.stable_gamma}


def _gradients(model: Any, weights: Mapping[str, Any], data: Any) -> dict[str, Tensor]:
    """{path: mean gradient over the batches}, as the base stores the weight; nothing else gets one, and nothing is left behind."""
    found: dict[str, Tensor] = {}
    batches = 0
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        for batch in data:
            with torch.enable_grad():
                loss = getattr(model(**batch), "loss", None) if isinstance(batch, Mapping) else None
                if loss is None:
                    raise ConfigError(
                        "LoRA-GA: each batch must be a dictionary with which the model gives a `loss` (put the labels in)"
                    )
                parts = torch.autograd.grad(loss, list(weights.values()))
            batches += 1
            for path, part in zip(weights, parts):
                found[path] = found[path] + part if path in found else part
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    if not batches:
        raise ConfigError("LoRA-GA: there is no batch in data")
    return {path: total / batches for path, total in found.items()}
