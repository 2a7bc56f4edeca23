"""A is a buffer with persistent=False."""

import torch
from torch import nn

BREAKS = {3: "A registered as a buffer", 6: "A is never saved"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.register_buffer(
            "A", torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5, persistent=False
        )
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
