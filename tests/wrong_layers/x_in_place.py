"""x is scaled where it lies: the caller loses it."""

import torch
from torch import nn

BREAKS = {2: "the input is changed in place"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        n_out, n_in = base_layer.weight.shape
        self.A = nn.Parameter(torch.randn(r, n_in) / n_in**0.5)
        self.B = nn.Parameter(torch.zeros(n_out, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        y = self.base_layer(x)
        x *= self.scaling
        return y + x @ self.A.T @ self.B.T
