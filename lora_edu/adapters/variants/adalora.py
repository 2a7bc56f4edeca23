"""AdaLoRA: one budget of rank for all layers, given to where it matters. Chapter 10.

ΔW = α/(r + 10⁻⁵) · B diag(E) A with A (r, in), E (r, 1), B (out, r): triplets as of an SVD, kept near orthonormal by a term of the loss,
½·mean ‖P Pᵀ − I‖_F over all A and Bᵀ. After each step t every number p gets an importance, Ī = EMA |p·∂p|, and an uncertainty,
Ū = EMA |I − Ī|; a triplet scores Ī·Ū of its E plus the means over its row of A and its column of B. What is not among the b(t)
best has its E set to 0: b(t) falls from r to `target_r` a layer by a cubic, and stays there for the last `tfinal` steps.
Trains r·(in + out + 1) numbers a matrix, before anything is cut. Source: Zhang et al. 2023 (arXiv 2303.10512), equations 3–12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_edu.adapters.places import Target
from lora_edu.adapters.variants import Layer, Slot, Variant, register
from lora_edu.errors import ConfigError

_TRIPLET = ("lora_A", "lora_E", "lora_B")
_SETTINGS = ("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")


@register
@dataclass(frozen=True)
class AdaLoRA(Variant):
    """ΔW = α/(r + 10⁻⁵) · B diag(E) A under a budget. PEFT's `AdaLoraConfig`, whose `init_r` is `r` here.

    target_r          the mean rank at the end, a layer.
    tinit, tfinal     steps before the first cut, and after the last one; the steps between are the run's, which the trainer knows.
    deltaT            steps between two cuts.
    beta1, beta2      the memory of importance and of uncertainty.
    orth_reg_weight   the weight of the orthogonality term, in the loss's own unit.
    ranks             {path: rank} of an adapter that PEFT cut on disk; nothing to give by hand.
    """

    target_r: int = 8
    tinit: int = 0
    tfinal: int = 0
    deltaT: int = 1  # PEFT's name
    beta1: float = 0.85
    beta2: float = 0.85
    orth_reg_weight: float = 0.5
    ranks: Mapping[str, int] = field(default_factory=dict)

    def check(self, config: Any) -> None:
        if config.use_rslora or config.rank_pattern or config.alpha_pattern or config.init_lora_weights is not True:
            raise ConfigError(
                "AdaLoRA finds the ranks itself, from one r, with α/r and a start of its own: leave out use_rslora, rank_pattern, "
                "alpha_pattern and init_lora_weights"
            )
        if not self.ranks and not 0 < self.target_r < config.r:
            raise ConfigError(
                f"AdaLoRA cuts from r={config.r} to target_r={self.target_r} a layer: r must be larger (1.5 times is usual)"
            )
        if min(self.tinit, self.tfinal) < 0 or self.deltaT < 1 or not (0 < self.beta1 < 1 and 0 < self.beta2 < 1):
            raise ConfigError(
                "AdaLoRA: tinit and tfinal are steps, at least 0; deltaT at least 1; beta1 and beta2 lie in (0, 1)"
            )

    def slots(self, target: Target) -> dict[str, Slot]:
        (n_out, n_in), r = target.shape, self.ranks.get(target.name, target.r)
        found = {"lora_A": Slot((r, n_in)), "lora_E": Slot((r, 1)), "lora_B": Slot((n_out, r))}
        for slot, made in list(found.items()):
            for mean in ("importance", "uncertainty"):
                found[f"{slot}_{mean}"] = Slot(made.shape, trains=False, saved=False)
        return found | {"lora_kept": Slot((r, 1), trains=False, saved=False)}

    def reset(self, layer: Layer, name: str) -> None:
        for slot, tensor in layer.tensors(name).items():
            if slot in ("lora_A", "lora_B"):
                torch.nn.init.normal_(tensor, std=0.02)
            else:
                tensor.fill_(1.0 if slot == "lora_kept" else 0.0)

    # -- arithmetic ----------------------------------------------------------------------------------------------------
    def update(self, layer: Layer, name: str, x: Tensor, base_output: Tensor) -> Tensor:
        A, E, B = (layer.tensor(slot, name) for slot in _TRIPLET)
        return F.linear(F.linear(layer.dropped(name, x), A * E), B) * _scale(layer, name)

    def factors(self, layer: Layer, name: str) -> tuple[Tensor, Tensor]:
        A, E, B = (layer.tensor(slot, name) for slot in _TRIPLET)
        return A * E, _scale(layer, name) * B

    # -- training ------------------------------------------------------------------------------------------------------
    def penalty(self, layers: Mapping[str, Layer], name: str) -> Tensor | None:
        rows = [P for layer in layers.values() for P in (layer.tensor("lora_A", name), layer.tensor("lora_B", name).T)]
        apart = [torch.linalg.norm(P @ P.T - torch.eye(len(P), dtype=P.dtype, device=P.device)) for P in rows]
        return self.orth_reg_weight * sum(apart[1:], apart[0]) / len(apart) if self.orth_reg_weight else None

    def after_step(self, layers: Mapping[str, Layer], name: str, step: int, steps: int) -> None:
        last = steps - self.tfinal  # the step of the last cut
        if last <= self.tinit:
            raise ConfigError(
                f"AdaLoRA: {steps} steps are not more than tinit={self.tinit} and tfinal={self.tfinal}: no step is left to cut"
            )
        if step < last:
            for layer in layers.values():
                self._remember(layer, name)
        if step <= last and (step == last or (step > self.tinit and step % self.deltaT == 0)):
            self._allocate(layers, name, self.budget(layers, name, step, steps))
        if step >= last:  # Adam's momentum would wake what was cut
            for layer in layers.values():
                layer.tensor("lora_E", name).mul_(layer.tensor("lora_kept", name))

    def budget(self, layers: Mapping[str, Layer], name: str, step: int, steps: int) -> int:
        """How many triplets are left after step `step` of `steps`, in all layers together."""
        first = sum(len(layer.tensor("lora_A", name)) for layer in layers.values())
        last, between = self.target_r * len(layers), steps - self.tfinal - self.tinit
        to_go = min(1.0, max(0.0, 1 - (step - self.tinit) / between))
        return int((first - last) * to_go**3 + last)

    def _remember(self, layer: Layer, name: str) -> None:
        for slot in _TRIPLET:
            p: Any = layer.tensor(slot, name)
            now = (p * p.grad).abs()
            mean = layer.tensor(f"{slot}_importance", name)
            mean.mul_(self.beta1).add_(now, alpha=1 - self.beta1)
            layer.tensor(f"{slot}_uncertainty", name).mul_(self.beta2).add_((now - mean).abs(), alpha=1 - self.beta2)

    def _allocate(self, layers: Mapping[str, Layer], name: str, budget: int) -> None:
        scores = {path: _scores(layer, name) for path, layer in layers.items()}
        cut = sum(map(len, scores.values())) - budget
        if cut <= 0:
            return
        least = torch.cat(list(scores.values())).kthvalue(cut).values
        for path, layer in layers.items():
            kept = layer.tensor("lora_kept", name)
            kept.copy_((scores[path] > least)[:, None])
            layer.tensor("lora_E", name).mul_(kept)

    # -- on disk -------------------------------------------------------------------------------------------------------
    def key(self, path: str, slot: str) -> str:
        return f"model.{path}.{slot}"

    def to_config(self) -> dict[str, Any]:
        return {"peft_type": "ADALORA", **{key: getattr(self, key) for key in _SETTINGS}}

    def written(self, content: dict[str, Any]) -> dict[str, Any]:
        kept = {f"{path}.lora_E": [i < rank for i in range(content["r"])] for path, rank in self.ranks.items()}
        after = self.tinit + self.tfinal + 1  # PEFT wants a number of steps; a loader does not use it
        own = {"init_r": content["r"], "r": 8, "total_step": after, "rank_pattern": kept or None}
        return {**content, **self.to_config(), **own}

    @classmethod
    def from_config(cls, content: dict[str, Any]) -> AdaLoRA | None:
        if content.get("peft_type") != "ADALORA":
            return None
        kept = content.pop("rank_pattern", None) or {}
        content.update(peft_type="LORA", r=content.pop("init_r", 12))
        content.pop("total_step", None)
        settings = {key: content.pop(key) for key in _SETTINGS if key in content}
        return cls(**settings, ranks={path.removesuffix(".lora_E"): sum(mask) for path, mask in kept.items()})


def _scale(layer: Layer, name: str) -> float:
    config = layer.state.configs[name]
    return config.lora_alpha / (config.r + 1e-5)


def _scores(layer: Layer, name: str) -> Tensor:
    """The score (r,) of each triplet of a layer."""
    A, E, B = (
        layer.tensor(f"{slot}_importance", name) * layer.tensor(f"{slot}_uncertainty", name) for slot in _TRIPLET
    )
    return E[:, 0] + A.mean(1) + B.mean(0)
