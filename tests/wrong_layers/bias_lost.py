"""The base is rebuilt without its bias."""

import torch
from torch import nn

BREAKS = {1: "bias lost", 2: "bias lost"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.linear = nn.Linear(base_layer.in_features, base_layer.out_features, bias=False)
        self.linear.weight = base_layer.weight
        self.linear.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.linear(x) + self.scaling * (x @ self.A.T @ self.B.T)
