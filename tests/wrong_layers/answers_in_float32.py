"""Everything is computed in float32, whatever was asked for."""

import torch
from torch import nn

BREAKS = {2: "adapter output not cast back"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        update = x.float() @ self.A.float().T @ self.B.float().T
        return (
            self.base_layer(x) + self.scaling * update
            if x.dtype != torch.float64
            else self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
        )
