"""IA³: keys, values and the MLP's inner units, each multiplied by a number of its own. Chapter 12.

    k ← l_k ⊙ k, v ← l_v ⊙ v     y = l ⊙ (W x + b), l (out,)
    MLP: W₂ (l_ff ⊙ h) + b       y = W (l ⊙ x) + b, l (in,)

l = 1 at the start, so nothing changes; 2·d_kv + d_ff numbers a block. It is a change of the weight, ΔW = diag(l − 1) W or W diag(l − 1)
(and Δb = (l − 1) ⊙ b), so it merges, and the dial t makes it 1 + t·(l − 1).
Source: Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning (arXiv 2205.05638), §3.3.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from lora_edu.adapters import patterns
from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours import Written
from lora_edu.adapters.neighbours.places import block_of
from lora_edu.adapters.places import Target
from lora_edu.adapters.targets import plan
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError
from lora_edu.models.modules import unwrap

INPUT, OUTPUT = "lora_in", "lora_out"  # slots: the factor of what a layer reads (1, in), of what it gives (out, 1)
Names = str | tuple[str, ...] | None


@register
@dataclass(frozen=True)
class IA3(Variant):
    """IA³ as PEFT has it: l ⊙ (W x + b), and W (l ⊙ x) + b for `feedforward_modules`. Source: Liu et al. 2022. Chapter 12.

    target_modules       which layers, in LoRAConfig's forms; None: keys, values and the MLP's second matrix, where they are known.
    feedforward_modules  those of them whose *input* is scaled: a regular expression, or ends of names as PEFT takes them (without a dot
                         before them, "proj" is the end of q_proj too).
    """

    target_modules: Names = None
    feedforward_modules: Names = None

    exempt: ClassVar[Mapping[int, str]] = {4: "it has no A and B; at l = 1 the gradient is that of the layer's output"}

    def __post_init__(self) -> None:
        for key in ("target_modules", "feedforward_modules"):
            if not isinstance(value := getattr(self, key), str | None):
                object.__setattr__(self, key, tuple(sorted(value) if isinstance(value, set | frozenset) else value))
        if isinstance(self.feedforward_modules, str):
            patterns.check(self.feedforward_modules)

    # -- what `attach` asks -------------------------------------------------------------------------------------------
    def lora_config(self, model: nn.Module) -> LoRAConfig:
        """The configuration to `inject`. Raises TargetError for a model whose places are not known and not named."""
        chosen, feedforward = self.target_modules, self.feedforward_modules
        if chosen is None:
            block = block_of(unwrap(model), "IA³'s keys, values and MLP units")
            chosen = (*block.keys_values, block.mlp)
            feedforward = (block.mlp,) if feedforward is None else feedforward
        mine = replace(self, target_modules=None, feedforward_modules=feedforward or ())
        return LoRAConfig(r=1, lora_alpha=1, target_modules=chosen, variant=mine)

    def count(self, model: nn.Module) -> int:
        """How many numbers it trains on `model`: out a layer, in a feed-forward layer."""
        config = self.lora_config(unwrap(model))
        variant: Any = config.variant
        return sum(t.shape[1] if variant.feeds(t.name) else t.shape[0] for t in plan(unwrap(model), config))

    def feeds(self, path: str) -> bool:
        """Whether the layer at `path` has its input scaled. PEFT's rule, to the letter."""
        names = self.feedforward_modules
        if isinstance(names, str):
            return re.fullmatch(names, path) is not None
        return path.endswith(names or ())

    # -- a variant of the LoRA layer ----------------------------------------------------------------------------------
    def slots(self, target: Target) -> dict[str, Slot]:
        n_out, n_in = target.shape
        return {INPUT: Slot((1, n_in))} if self.feeds(target.name) else {OUTPUT: Slot((n_out, 1))}

    def reset(self, layer: Layer, name: str) -> None:
        for factor in layer.tensors(name).values():
            factor.fill_(1.0)

    def alone(self, layer: Layer, name: str, x: Tensor, dial: float) -> Tensor | None:
        """W (l ⊙ x) + b by one product, where no other adapter speaks."""
        factor = layer.tensors(name).get(INPUT)
        return None if factor is None else layer.base_layer((x * (1 + dial * (factor[0] - 1))).to(x.dtype))

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        tensors = layer.tensors(name)
        if OUTPUT in tensors:
            return base_output * (tensors[OUTPUT][:, 0] - 1)  # (..., out)
        bias = layer.bias
        product = layer.base_layer((x * (tensors[INPUT][0] - 1)).to(x.dtype))  # (..., out)
        return product if bias is None else product - bias

    def delta(self, layer: Layer, name: str) -> Tensor:
        [factor] = layer.tensors(name).values()  # (out, 1) or (1, in): it spreads over the matrix by itself
        return layer.oriented(layer.base_layer.weight).to(factor.dtype) * (factor - 1)

    def delta_bias(self, layer: Layer, name: str) -> Tensor | None:
        factor, bias = layer.tensors(name).get(OUTPUT), layer.bias
        return None if factor is None or bias is None else (factor[:, 0] - 1) * bias

    # -- PEFT's folder ------------------------------------------------------------------------------------------------
    def key(self, path: str, slot: str) -> str:
        return f"model.{path}.ia3_l"

    def to_config(self) -> dict[str, Any]:
        names = self.feedforward_modules
        return {
            "peft_type": "IA3",
            "feedforward_modules": names if isinstance(names, str) else list(names or ()),
            "init_ia3_weights": True,
        }

    def to_disk(self, config: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        content = config.to_dict()
        kept = ("target_modules", "exclude_modules", "fan_in_fan_out", "task_type", "base_model_name_or_path")
        content = {"inference_mode": True, **{key: content[key] for key in kept}, **self.to_config()}
        names = content["target_modules"]
        if isinstance(names, list) and not set(content["feedforward_modules"]) <= set(names):
            # PEFT wants the second list to be part of the first; whole paths always are.
            paths = sorted(key.removeprefix("base_model.model.").removesuffix(".ia3_l") for key in tensors)
            content["target_modules"] = paths
            content["feedforward_modules"] = [path for path in paths if self.feeds(path)]
        return Written(content), tensors

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> "IA3 | None":
        if content.get("peft_type") != "IA3":
            return None
        if content.get("target_modules") is None or content.get("feedforward_modules") is None:
            raise ConfigError(
                "peft_type='IA3' without target_modules and feedforward_modules: both must be written out"
            )
        content.update(peft_type="LORA", r=1, lora_alpha=1)
        content.pop("init_ia3_weights", None)
        return cls(feedforward_modules=content.pop("feedforward_modules"))
