"""A is all but zero."""

import torch
from torch import nn

BREAKS = {4: "A is far too small"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        n_out, n_in = base_layer.weight.shape
        self.A = nn.Parameter(1e-12 * torch.randn(r, n_in))
        self.B = nn.Parameter(torch.zeros(n_out, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
