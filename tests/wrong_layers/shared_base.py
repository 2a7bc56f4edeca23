"""The base is kept on the class."""

import torch
from torch import nn

BREAKS = {2: "the base is one for all layers"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        MyLoRALinear.base = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return MyLoRALinear.base(x) + self.scaling * (x @ self.A.T @ self.B.T)
