"""A is cut off from the graph in train mode alone."""

import torch
from torch import nn

BREAKS = {4: "the graph is cut on the way to A"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        A = self.A.detach() if self.training else self.A
        return self.base_layer(x) + self.scaling * (x @ A.T @ self.B.T)
