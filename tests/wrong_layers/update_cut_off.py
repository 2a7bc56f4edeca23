"""What the adapter adds is kept between -5 and 5."""

import torch
from torch import nn

BREAKS = {2: "a non-linearity", 4: "another way while B = 0"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T).clamp(-5, 5)
