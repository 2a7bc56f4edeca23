"""FLoRA: a small core tensor between the factors, so that a convolution keeps its four dimensions. Chapter 10.

ΔW = s·G ×₁ B ×₂ Aᵀ ×₃ Cᵀ ×₄ Dᵀ, a Tucker product: ΔW[o, i, y, x] = s·Σ B[o, p] G[p, q, m, n] A[q, i] C[m, y] D[n, x], with a core G (r, q, kh, kw), q = min(r, in),
B (out, r), A (q, in), C (kh, kh), D (kw, kw). A linear layer has the two-dimensional core G (r, q), and ΔW = s·B G A. G starts at 0 and the factors at
random, so that ΔW = 0 and a gradient reaches G. Trains r·q·kh·kw + r·out + q·in + kh² + kw² numbers, where plain LoRA has
r·(in·kh·kw + out).
Source: Si et al. 2024, FLoRA: Low-Rank Core Space for N-dimension (arXiv 2405.14739). PEFT has none: on disk it is plain LoRA,
because ΔW, laid out as (out, in·kh·kw), has rank r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError

_FACTORS = ("lora_A", "lora_C", "lora_D")


@register
@dataclass(frozen=True)
class FLoRA(Variant):
    """ΔW = s·G ×₁ B ×₂ Aᵀ ×₃ Cᵀ ×₄ Dᵀ on a convolution, s·B G A on a linear layer."""

    kinds = ("linear", "conv1d", "conv2d")

    def check(self, config: Any) -> None:
        if config.init_lora_weights is not True:
            raise ConfigError(
                f"init_lora_weights={config.init_lora_weights!r}: FLoRA's core starts at 0, its factors at random; leave it out"
            )

    def slots(self, target: Target) -> dict[str, Slot]:
        n_in, *kernel = target.kernel or (target.shape[1],)
        q = min(target.r, n_in)
        found = {
            "lora_A": Slot((q, n_in)),
            "lora_B": Slot((target.shape[0], target.r)),
            "lora_core": Slot((target.r, q, *kernel)),
        }
        return found | {slot: Slot((k, k)) for slot, k in zip(("lora_C", "lora_D"), kernel)}

    def reset(self, layer: Layer, name: str) -> None:
        for slot, tensor in layer.tensors(name).items():
            if slot == "lora_core":
                tensor.zero_()
            else:
                torch.nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, B = self.factors(layer, name)
        h, through = layer.dropped(name, x), getattr(layer, "through", None)
        return through(h, A, B) if through else F.linear(F.linear(h, A), B)

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        held = layer.tensors(name)
        return _rows(held["lora_core"], held), layer.scalings[name] * held["lora_B"]

    def to_disk(self, config: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        plain = {
            key: tensor for key, tensor in tensors.items() if not key.endswith((".lora_core", ".lora_C", ".lora_D"))
        }
        for key in [key for key in plain if key.endswith(".lora_A.weight")]:
            path = key.removesuffix("lora_A.weight")
            core = tensors[f"{path}lora_core"]
            held = {
                slot: t
                for slot in _FACTORS
                if (t := tensors.get(key if slot == "lora_A" else f"{path}{slot}")) is not None
            }
            A, B = _rows(core, held), tensors[f"{path}lora_B.weight"]
            kernel = core.shape[2:]
            plain[key] = A.view(len(A), -1, *kernel) if kernel else A
            plain[f"{path}lora_B.weight"] = B.view(*B.shape, *(1,) * len(kernel))
        return replace(config, variant=None), plain

    def to_config(self) -> dict[str, Any]:
        return {"use_flora": True}


def _rows(core: Tensor, held: Any) -> Tensor:
    """(r, in·kh·kw): the core with its factors but B multiplied in."""
    A = torch.tensordot(core, held["lora_A"], dims=([1], [0]))  # (r, kh, kw, in) or (r, in)
    if core.ndim == 2:
        return A
    return torch.einsum("pmni,my,nx->piyx", A, held["lora_C"], held["lora_D"]).flatten(1)
