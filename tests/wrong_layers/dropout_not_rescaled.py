"""Dropout by a mask of zeros and ones: in train mode the adapter is weaker than in eval mode."""

import torch
from torch import nn

BREAKS = {2: "dropout without rescaling"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha, lora_dropout=0.1):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r
        self.p = lora_dropout

    def forward(self, x):
        heard = x * (torch.rand_like(x) >= self.p) if self.training else x
        return self.base_layer(x) + self.scaling * (heard @ self.A.T @ self.B.T)
