"""The factors are nn.Linear with their default bias."""

from torch import nn

BREAKS = {1: "an extra bias", 2: "an extra bias", 3: "an extra parameter"}


class MyLoRALinear(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = nn.Linear(base_layer.in_features, r)
        self.lora_B = nn.Linear(r, base_layer.out_features)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * self.lora_B(self.lora_A(x))
