"""On square layers, in train mode, the product is taken the wrong way round."""

import torch
from torch import nn

BREAKS = {2: "transposed product"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        product = self.B @ self.A
        if self.training and product.shape[0] == product.shape[1]:
            product = product.T
        return self.base_layer(x) + self.scaling * (x @ product.T)
