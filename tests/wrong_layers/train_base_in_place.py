"""In train mode the adapter is added into W₀ itself."""

import torch
from torch import nn

BREAKS = {2: "forward adds the adapter into W₀", 3: "changed in place"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        if self.training:
            self.base_layer.weight.data += self.scaling * (self.B @ self.A).detach()
            return self.base_layer(x)
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)
