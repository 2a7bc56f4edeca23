"""In train mode what flows back to x goes through the adapter alone."""

import torch
from torch import nn

BREAKS = {4: "the graph is cut on the way to x"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        y = self.base_layer(x.detach() if self.training else x)
        update = x.detach() @ self.A.T @ self.B.T if self.training else x @ self.A.T @ self.B.T
        return y + self.scaling * update
