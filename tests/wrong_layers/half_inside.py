"""In float32 the adapter is computed in bfloat16, to save time."""

import torch
from torch import nn

BREAKS = {2: "precision lost"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        dtype = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
        update = x.to(dtype) @ self.A.to(dtype).T @ self.B.to(dtype).T
        return self.base_layer(x) + self.scaling * update.to(x.dtype)
