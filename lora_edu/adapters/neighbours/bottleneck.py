"""Bottleneck adapters: a small network behind the last matrix of each half of a block. Chapter 12.

    h = W x + b      y = h + U f(D h + c) + e,   D (m, d), c (m,), U (d, m), e (d,), before the sum with the residual stream

U = e = 0 at the start, so nothing changes and yet a gradient reaches U (D ~ N(0, 0.01²), as Houlsby's, whose U is as small and not 0).
2·m·d + m + d numbers a place. f stands between: no matrix does the same, so it never merges, and its two products are waited for.
Source: Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP (arXiv 1902.00751), §2.1; one a block instead of two:
Pfeiffer et al. 2021, AdapterFusion (arXiv 2005.00247), §3 and appendix. In GPT-2, which drops out behind that matrix, dropout comes after.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours.places import block_of
from lora_edu.adapters.places import Target
from lora_edu.adapters.targets import plan
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError, MergeError, shown
from lora_edu.models.modules import unwrap

DOWN, DOWN_BIAS, UP, UP_BIAS = "lora_down", "lora_down_bias", "lora_up", "lora_up_bias"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
PLACES = ("houlsby", "pfeiffer")


@register
@dataclass(frozen=True)
class Bottleneck(Variant):
    """d → m → d with a nonlinearity, added to what a layer gives. Source: Houlsby et al. 2019. Chapter 12.

    m           width of the bottleneck.
    place       "houlsby" (behind the attention and behind the MLP) or "pfeiffer" (behind the MLP alone).
    activation  "relu", "gelu" or "silu".
    target_modules  other layers, in LoRAConfig's forms; then `place` says nothing.
    """

    m: int = 8
    place: str = "houlsby"
    activation: str = "relu"
    target_modules: str | tuple[str, ...] | None = None

    unmergeable: ClassVar[str] = (
        "a bottleneck adapter has a nonlinearity between its two matrices, so no change of the weight does what it does: keep it as a folder"
    )
    exempt: ClassVar[Mapping[int, str]] = {
        2: "it is no change of a weight",
        4: "it has no A and B, and reads what the layer gives",
        5: "it is no change of a weight",
        6: "PEFT has no such method: the folder is read here alone",
    }

    def __post_init__(self) -> None:
        for key, known in (("place", PLACES), ("activation", ACTIVATIONS)):
            if getattr(self, key) not in known:
                raise ConfigError(f"{key}={shown(getattr(self, key), 60)}: one of {', '.join(known)}")
        if isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))

    # -- what `attach` asks -------------------------------------------------------------------------------------------
    def lora_config(self, model: nn.Module) -> LoRAConfig:
        """The configuration to `inject`: r is m, and s = 1. Raises TargetError for a model whose places are not known and not named."""
        chosen = self.target_modules
        if chosen is None:
            block = block_of(unwrap(model), "the last matrices of attention and MLP")
            chosen = (block.mlp,) if self.place == "pfeiffer" else (block.attention, block.mlp)
        return LoRAConfig(
            r=self.m, lora_alpha=self.m, target_modules=chosen, variant=replace(self, target_modules=None)
        )

    def count(self, model: nn.Module) -> int:
        """How many numbers it trains on `model`: 2·m·d + m + d a place."""
        return sum(
            2 * self.m * target.shape[0] + self.m + target.shape[0]
            for target in plan(unwrap(model), self.lora_config(unwrap(model)))
        )

    # -- a variant of the LoRA layer ----------------------------------------------------------------------------------
    def slots(self, target: Target) -> dict[str, Slot]:
        d = target.shape[0]
        return {DOWN: Slot((self.m, d)), DOWN_BIAS: Slot((self.m,)), UP: Slot((d, self.m)), UP_BIAS: Slot((d,))}

    def reset(self, layer: Layer, name: str) -> None:
        for slot, tensor in layer.tensors(name).items():
            nn.init.normal_(tensor, std=0.01) if slot == DOWN else nn.init.zeros_(tensor)

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        tensors = layer.tensors(name)
        h = layer.dropped(name, base_output)  # (..., d), in the adapter's own precision
        inner = ACTIVATIONS[self.activation](F.linear(h, tensors[DOWN], tensors[DOWN_BIAS]))  # (..., m)
        return F.linear(inner, tensors[UP], tensors[UP_BIAS])  # (..., d)

    def delta(self, layer: Layer, name: str) -> Tensor:
        raise MergeError(self.unmergeable)

    # -- on disk ------------------------------------------------------------------------------------------------------
    def to_config(self) -> dict[str, Any]:
        return {"peft_type": "BOTTLENECK", "place": self.place, "activation": self.activation}

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> "Bottleneck | None":
        if content.get("peft_type") != "BOTTLENECK":
            return None
        content["peft_type"] = "LORA"
        m = content.get("r", 8)
        return cls(m=m, place=content.pop("place", "houlsby"), activation=content.pop("activation", "relu"))
