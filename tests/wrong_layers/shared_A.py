"""All layers of a size hold the same A."""

import torch
from torch import nn

BREAKS = {2: "A is one tensor for all layers"}

STORE = {}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(STORE.setdefault((r, base_layer.in_features), torch.randn(r, base_layer.in_features)))
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
