"""What the starts that take the factors out of the base have in common (PiSSA, OLoRA, LoRA-GA): the base stays as it is. Chapter 10.

They begin at factors A₀ (r, in), B₀ (out, r) that are not silent, and take s·B₀ A₀ out of the base, so that the sum is W₀. Here nothing
is taken out of the base: the adapter itself holds A₀ and B₀, frozen, and its update is

    ΔW = s·(B A − B₀ A₀),

which is 0 at the start, bit for bit, and trains exactly as PEFT's does on W₀ − s·B₀ A₀. It costs r·(in + out) frozen numbers more and a
second thin product. On disk it is plain LoRA of twice the rank, A' = [A; A₀], B' = [B, −B₀], with α twice as large (√2 times with α/√r),
so that s is what it was: what `save_pretrained(path_initial_model_for_weight_conversion=…)` writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant
from lora_edu.errors import ConfigError


@dataclass(frozen=True)
class Offset(Variant):
    """ΔW = s·(B A − B₀ A₀); a subclass says in `first` what A₀ and B₀ are."""

    reads_base = True

    def check(self, config: Any) -> None:
        if config.init_lora_weights is not True:
            raise ConfigError(
                f"init_lora_weights={config.init_lora_weights!r}: {type(self).__name__} is a start of its own; leave one of them out"
            )

    def first(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        """A₀ (k, in) and B₀ (out, k), k ≤ r: where the factors start."""
        raise NotImplementedError

    def slots(self, target: Target) -> dict[str, Slot]:
        plain = super().slots(target)
        return plain | {f"{slot}0": Slot(made.shape, trains=False) for slot, made in plain.items()}

    def reset(self, layer: Layer, name: str) -> None:
        super().reset(layer, name)  # where a matrix has fewer than r directions, the others begin as plain LoRA's
        A, B = self.first(layer, name)
        layer.tensor("lora_A", name)[: len(A)] = A
        layer.tensor("lora_B", name)[:, : len(A)] = B
        for slot in ("lora_A", "lora_B"):
            layer.tensor(f"{slot}0", name).copy_(layer.tensor(slot, name))

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, B, A0, B0 = (layer.tensor(slot, name) for slot in ("lora_A", "lora_B", "lora_A0", "lora_B0"))
        h = layer.dropped(name, x)
        whole = x if torch.is_autocast_enabled(x.device.type) else x.to(A.dtype)  # the base's share sees no dropout
        return layer.scalings[name] * (F.linear(F.linear(h, A), B) - F.linear(F.linear(whole, A0), B0))

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        A, B, A0, B0 = (layer.tensor(slot, name) for slot in ("lora_A", "lora_B", "lora_A0", "lora_B0"))
        return torch.cat([A, A0]), layer.scalings[name] * torch.cat([B, -B0], dim=1)

    def to_disk(self, config: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        plain = {key: tensor for key, tensor in tensors.items() if not key.endswith(("lora_A0", "lora_B0"))}
        for key in plain:
            if key.endswith("lora_A.weight"):
                plain[key] = torch.cat([plain[key], tensors[key.replace("lora_A.weight", "lora_A0")]])
            elif key.endswith("lora_B.weight"):
                plain[key] = torch.cat([plain[key], -tensors[key.replace("lora_B.weight", "lora_B0")]], dim=1)
        more = math.sqrt(2) if config.use_rslora else 2
        as_plain = replace(
            config,
            variant=None,
            r=2 * config.r,
            lora_alpha=more * config.lora_alpha,
            rank_pattern={pattern: 2 * r for pattern, r in config.rank_pattern.items()},
            alpha_pattern={pattern: more * alpha for pattern, alpha in config.alpha_pattern.items()},
        )
        return as_plain, plain


def base_weight(layer: Layer) -> Tensor:
    """W₀ (out, in) in at least float32: half precision has neither SVD nor QR."""
    weight = layer.base_layer.weight.detach()
    return layer.oriented(weight).to(torch.promote_types(weight.dtype, torch.float32))
