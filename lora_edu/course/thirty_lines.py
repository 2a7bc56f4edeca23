"""LoRA in thirty lines: an answer to chapter 17's blank page. Try your own first."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy


class LoRA(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / r
        self.lora_A = nn.Linear(base.in_features, r, bias=False)
        self.lora_B = nn.Linear(r, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base(x) + self.scale * self.lora_B(self.lora_A(x))


def inject(model, names, r, alpha):
    model.requires_grad_(False)
    for path in [p for p, _ in model.named_modules() if p.split(".")[-1] in names]:
        model.set_submodule(path, LoRA(model.get_submodule(path), r, alpha))


def loss(model, ids, labels):
    return cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def train(model, batches, lr):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    for ids, labels in batches:
        optimizer.zero_grad()
        loss(model, ids, labels).backward()
        optimizer.step()


def save(model, folder, names, r, alpha):
    file = {f"base_model.model.{k}": t for k, t in model.state_dict().items() if "lora_" in k}
    save_file(file, Path(folder) / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": r, "lora_alpha": alpha, "target_modules": list(names)}
    (Path(folder) / "adapter_config.json").write_text(json.dumps(config))


def merge(model):
    for path, m in [(p, m) for p, m in model.named_modules() if isinstance(m, LoRA)]:
        m.base.weight.data += m.scale * m.lora_B.weight.data @ m.lora_A.weight.data
        model.set_submodule(path, m.base)
