"""In train mode W₀ shrinks a little at every call; the output of that call is right."""

import torch
from torch import nn

BREAKS = {2: "forward changes W₀ itself", 3: "changed in place"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        y = self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
        if self.training:
            self.base_layer.weight.data *= 0.999
        return y
