"""Built from sizes and not from a layer."""

import torch
from torch import nn

BREAKS = {0: "another constructor"}


class MyLoRALinear(nn.Module):
    def __init__(self, in_features, out_features, r, lora_alpha):
        super().__init__()
        self.base_layer = nn.Linear(in_features, out_features).requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, in_features) / in_features**0.5)
        self.B = nn.Parameter(torch.zeros(out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
