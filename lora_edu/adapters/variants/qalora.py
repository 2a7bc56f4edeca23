"""QA-LoRA: one number for each group of inputs, so that the update fits into a quantised weight's zero points. Chapters 10 and 11.

ΔW = s·B A P with P (in/g, in) the means over groups of g neighbouring inputs, times in/g: A (r, in/g), B (out, r). Within a group all columns
of ΔW are alike, which is what a group's zero point can take up; here it merges into a full-precision base, as every variant does.
Trains r·(in/g + out) numbers a matrix. Source: Xu et al. 2023, QA-LoRA (arXiv 2309.14717), §3.3; the factor in/g is PEFT's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError


@register
@dataclass(frozen=True)
class QALoRA(Variant):
    """ΔW = s·B A P. `use_qalora` in PEFT, which has it on GPTQ layers alone.

    qalora_group_size   g, which divides the inputs of every adapted matrix.
    """

    qalora_group_size: int = 16

    def slots(self, target: Target) -> dict[str, Slot]:
        (n_out, n_in), g = target.shape, self.qalora_group_size
        if g < 1 or n_in % g:
            raise ConfigError(
                f"qalora_group_size={g} does not divide the {n_in} inputs of {target.name}: choose one that does"
            )
        return {"lora_A": Slot((target.r, n_in // g)), "lora_B": Slot((n_out, target.r))}

    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, B = layer.tensor("lora_A", name), layer.tensor("lora_B", name)
        h = layer.dropped(name, x)  # (..., in)
        pooled = h.unflatten(-1, (-1, self.qalora_group_size)).mean(-1) * A.shape[1]  # (..., in/g)
        return layer.scalings[name] * F.linear(F.linear(pooled, A), B)

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        A, g = layer.tensor("lora_A", name), self.qalora_group_size
        return A.repeat_interleave(g, dim=1) * (A.shape[1] / g), layer.scalings[name] * layer.tensor("lora_B", name)

    def to_config(self) -> dict[str, Any]:
        return {"use_qalora": True, "qalora_group_size": self.qalora_group_size}

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> QALoRA | None:
        return cls(content.pop("qalora_group_size", 16)) if content.pop("use_qalora", False) else None
