"""α is taken and never used."""

import torch
from torch import nn

BREAKS = {2: "scale missing"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))

    def forward(self, x):
        return self.base_layer(x) + (x @ self.A.T @ self.B.T)
