"""Two variants of LoRA that nobody ships: one whose layers share a tensor (VeRA), one that acts after steps (AdaLoRA)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lora_edu.adapters.variants import Slot, Variant


@dataclass(frozen=True)
class VeRA(Variant):
    """ΔW = diag(b) B diag(d) A with A, B random, frozen and shared by all layers (Kopiczko et al. 2023); PEFT's keys."""

    d_initial: float = 0.1
    save_projection: bool = True

    def slots(self, target):
        return {"lora_d": Slot((target.r,)), "lora_b": Slot((target.shape[0],))}

    def shared(self, targets):
        n_out, n_in = (max(t.shape[side] for t in targets) for side in (0, 1))
        kept = {"trains": False, "saved": self.save_projection}
        return {"lora_vera_A": Slot((targets[0].r, n_in), **kept), "lora_vera_B": Slot((n_out, targets[0].r), **kept)}

    def start(self, model, layers, name, data=None):
        super().start(model, layers, name, data)
        first, generator = next(iter(layers.values())), torch.Generator().manual_seed(0)
        for slot in ("lora_vera_A", "lora_vera_B"):
            torch.nn.init.normal_(first.tensor(slot, name), generator=generator)

    def reset(self, layer, name):
        layer.tensor("lora_d", name).fill_(self.d_initial)
        layer.tensor("lora_b", name).zero_()

    def update(self, layer, name, x, base_output):
        A, B, d, b = self._tensors(layer, name)
        return b * F.linear(d * F.linear(layer.dropped(name, x), A), B)

    def delta(self, layer, name):
        A, B, d, b = self._tensors(layer, name)
        return b[:, None] * (B * d) @ A

    def _tensors(self, layer, name):
        (n_out, n_in), tensor = layer.shape, layer.tensor
        A, B = tensor("lora_vera_A", name)[:, :n_in], tensor("lora_vera_B", name)[:n_out]
        return A, B, tensor("lora_d", name), tensor("lora_b", name)

    def key(self, path, slot):
        return {"lora_d": f"model.{path}.vera_lambda_d", "lora_b": f"model.{path}.vera_lambda_b"}.get(slot, slot[5:])

    def to_config(self):
        own = {"d_initial": self.d_initial, "save_projection": self.save_projection, "vera_dropout": 0.0}
        return {"peft_type": "VERA", **own}

    @classmethod
    def from_config(cls, content):
        if content.get("peft_type") != "VERA":
            return None
        content.update(peft_type="LORA", vera_dropout=0.0)
        return cls(content.pop("d_initial"), content.pop("save_projection"))


@dataclass(frozen=True)
class AdaLoRA(Variant):
    """ΔW = s·B diag(E) A, E pruned to a budget by its running importance |E·∂E| after each step (Zhang et al. 2023, simplified)."""

    budget: int = 5
    beta: float = 0.85

    def slots(self, target):
        E, mean = Slot((target.r, 1)), Slot((target.r, 1), trains=False, saved=False)
        return {**super().slots(target), "lora_E": E, "lora_importance": mean}

    def reset(self, layer, name):
        for slot in ("lora_A", "lora_B"):
            torch.nn.init.normal_(layer.tensor(slot, name), std=0.02)
        layer.tensor("lora_E", name).zero_()
        layer.tensor("lora_importance", name).zero_()

    def update(self, layer, name, x, base_output):
        A = layer.tensor("lora_A", name) * layer.tensor("lora_E", name)
        return F.linear(F.linear(layer.dropped(name, x), A), layer.tensor("lora_B", name)) * layer.scalings[name]

    def delta(self, layer, name):
        A, E, B = (layer.tensor(slot, name) for slot in ("lora_A", "lora_E", "lora_B"))
        return layer.scalings[name] * B @ (A * E)

    def penalty(self, layers, name):
        factors = [
            f for layer in layers.values() for f in (layer.tensor("lora_A", name), layer.tensor("lora_B", name).T)
        ]
        return 0.5 * torch.stack([(f @ f.T - torch.eye(len(f))).norm() for f in factors]).mean()

    def after_step(self, layers, name, step, steps):
        scores = []
        for layer in layers.values():
            E, mean = layer.tensor("lora_E", name), layer.tensor("lora_importance", name)
            mean.lerp_((E * E.grad).abs(), 1 - self.beta)
            scores.append(mean)
        least = torch.cat(scores).flatten().topk(self.budget).values[-1]
        for layer, mean in zip(layers.values(), scores):
            layer.tensor("lora_E", name).mul_(mean >= least)

    def to_config(self):
        return {"peft_type": "ADALORA", "budget": self.budget, "beta": self.beta}

    @classmethod
    def from_config(cls, content):
        if content.get("peft_type") != "ADALORA":
            return None
        content["peft_type"] = "LORA"
        return cls(content.pop("budget"), content.pop("beta"))
