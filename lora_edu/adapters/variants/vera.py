"""VeRA: all layers share one random pair of factors, and each trains two vectors. Chapter 10.

ΔW = diag(b) B diag(d) A with A (r, in) and B (out, r) random, frozen and the same for every layer, which reads as many columns of A and
rows of B as it has; d (r,) begins at `d_initial`, b (out,) at 0. Trains out + r numbers a matrix; there is no α.
Source: Kopiczko, Blankevoort and Asano 2023 (arXiv 2310.11454), equation 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError

_PROJECTIONS = ("lora_vera_A", "lora_vera_B")
_SETTINGS = ("d_initial", "save_projection", "projection_prng_key")
_NO_SUCH_KEY = {
    "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights", "ensure_weight_tying",
    "exclude_modules",
}  # fmt: skip


@register
@dataclass(frozen=True)
class VeRA(Variant):
    """ΔW = diag(b) B diag(d) A. PEFT's `VeraConfig`, whose `vera_dropout` is `lora_dropout` here.

    d_initial            where d begins.
    save_projection      whether A and B are written; without them (two vectors a layer are left) a loader draws them again.
    projection_prng_key  the seed that they are drawn from: the numbers are PEFT's.
    """

    d_initial: float = 0.1
    save_projection: bool = True
    projection_prng_key: int = 0

    def check(self, config: Any) -> None:
        if config.use_rslora or config.rank_pattern or config.alpha_pattern or config.init_lora_weights is not True:
            raise ConfigError(
                "VeRA has no α and one pair of factors for all layers: use_rslora, rank_pattern, alpha_pattern and init_lora_weights "
                "mean nothing to it; leave them out"
            )
        if config.exclude_modules:
            raise ConfigError("VeRA has no exclude_modules in PEFT's folder: name the layers in target_modules")

    def slots(self, target: Target) -> dict[str, Slot]:
        return {"lora_d": Slot((target.r,)), "lora_b": Slot((target.shape[0],))}

    def shared(self, targets: Sequence[Target]) -> dict[str, Slot]:
        n_out, n_in = (max(target.shape[side] for target in targets) for side in (0, 1))
        A, B = (targets[0].r, n_in), (n_out, targets[0].r)
        return {
            slot: Slot(shape, trains=False, saved=self.save_projection) for slot, shape in zip(_PROJECTIONS, (A, B))
        }

    def start(self, model: Any, layers: Mapping[str, Layer], name: str, data: Any = None) -> None:
        super().start(model, layers, name, data)
        generator = torch.Generator().manual_seed(self.projection_prng_key)
        for (
            slot
        ) in _PROJECTIONS:  # U(±√(6/columns)), on the CPU and in float32: the numbers are then the same everywhere
            held = next(iter(layers.values())).tensor(slot, name)
            bound = math.sqrt(6 / held.shape[1])
            held.copy_(torch.empty(held.shape, device="cpu").uniform_(-bound, bound, generator=generator))

    def reset(self, layer: Layer, name: str) -> None:
        layer.tensor("lora_d", name).fill_(self.d_initial)
        layer.tensor("lora_b", name).zero_()

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, B = self._cut(layer, name)
        low = layer.tensor("lora_d", name) * F.linear(layer.dropped(name, x), A)
        return layer.tensor("lora_b", name) * F.linear(low, B)

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        A, B = self._cut(layer, name)
        return A, layer.tensor("lora_b", name)[:, None] * B * layer.tensor("lora_d", name)

    def _cut(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) as this layer reads them."""
        n_out, n_in = layer.shape
        return layer.tensor("lora_vera_A", name)[:, :n_in], layer.tensor("lora_vera_B", name)[:n_out]

    def key(self, path: str, slot: str) -> str:
        return f"model.{path}.vera_lambda_{slot[-1]}" if path else slot.removeprefix("lora_")

    def to_config(self) -> dict[str, Any]:
        return {"peft_type": "VERA", **{key: getattr(self, key) for key in _SETTINGS}}

    def written(self, content: dict[str, Any]) -> dict[str, Any]:
        plain = {key: value for key, value in content.items() if key not in _NO_SUCH_KEY}
        return {**plain, **self.to_config(), "vera_dropout": content["lora_dropout"]}

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> VeRA | None:
        if content.get("peft_type") != "VERA":
            return None
        content.update(peft_type="LORA", lora_dropout=content.pop("vera_dropout", 0.0))
        content.pop("init_weights", None)
        content.setdefault("r", 256)
        return cls(**{key: content.pop(key) for key in _SETTINGS if key in content})
