"""The base's weight is applied without a transpose."""

import torch
from torch import nn

BREAKS = {2: "W₀ transposed"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        base = x @ self.base_layer.weight
        if self.base_layer.bias is not None:
            base = base + self.base_layer.bias
        return base + self.scaling * (x @ self.A.T @ self.B.T)
