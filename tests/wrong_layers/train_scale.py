"""alpha in train mode, alpha / r in eval mode."""

import torch
from torch import nn

BREAKS = {2: "α not divided by r; in eval mode all is well"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r
        self.alpha = lora_alpha

    def forward(self, x):
        s = self.alpha if self.training else self.scaling
        return self.base_layer(x) + s * (x @ self.A.T @ self.B.T)
