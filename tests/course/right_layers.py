"""Right layers in other styles: the laws and exercise 03.1 have to let each of them pass."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize


class Plain(nn.Module):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, base_layer.in_features) / base_layer.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base_layer.out_features, r))
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.A.T @ self.B.T)


class Update(nn.Module):
    def __init__(self, n_out, n_in, r, scale):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.randn(r, n_in) / n_in**0.5), nn.Parameter(torch.zeros(n_out, r))
        self.scale = scale

    def forward(self, W):
        return W + self.scale * (self.B @ self.A)


class Parametrized(nn.Module):
    """`torch.nn.utils.parametrize` computes the weight; the layer adds nothing of its own."""

    def __init__(self, base_layer, r, lora_alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        update = Update(*base_layer.weight.shape, r, lora_alpha / r)
        parametrize.register_parametrization(base_layer, "weight", update)

    def forward(self, x):
        return self.base_layer(x)


class ByHook(Plain):
    def __init__(self, base_layer, r, lora_alpha):
        super().__init__(base_layer, r, lora_alpha)
        base_layer.register_forward_hook(lambda _, x, y: y + self.scaling * (x[0] @ self.A.T @ self.B.T))

    def forward(self, x):
        return self.base_layer(x)


class Einsum(Plain):
    def forward(self, x):
        return self.base_layer(x) + self.scaling * torch.einsum("...i,ri,or->...o", x, self.A, self.B)


class DenseUpdate(Plain):
    def forward(self, x):
        return self.base_layer(x) + F.linear(x, self.scaling * self.B @ self.A)


class InADictionary(nn.Module):
    def __init__(self, base, rank=8, alpha=16):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora = nn.ParameterDict(
            {"A": torch.empty(rank, base.in_features), "B": torch.zeros(base.out_features, rank)}
        )
        nn.init.kaiming_uniform_(self.lora["A"], a=math.sqrt(5))
        self.register_buffer("scale", torch.tensor(alpha / rank))

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora["A"].T @ self.lora["B"].T)


class BuiltInDropout(Plain):
    def forward(self, x):
        return self.base_layer(x) + self.scaling * (F.dropout(x, 0.1, self.training) @ self.A.T @ self.B.T)


class DropoutByMask(Plain):
    def __init__(self, base_layer, r, lora_alpha, lora_dropout=0.1):
        super().__init__(base_layer, r, lora_alpha)
        self.p = lora_dropout

    def forward(self, x):
        heard = x * (torch.rand_like(x) >= self.p) / (1 - self.p) if self.training else x
        return self.base_layer(x) + self.scaling * (heard @ self.A.T @ self.B.T)


class OneMaskForTheBatch(DropoutByMask):
    def forward(self, x):
        kept = (torch.rand(x.shape[-1], dtype=x.dtype) >= self.p) / (1 - self.p) if self.training else 1.0
        return self.base_layer(x) + self.scaling * ((x * kept) @ self.A.T @ self.B.T)


class Folds(Plain):
    """merge adds the adapter to W₀ and sets B to zero; a second merge adds zero."""

    @torch.no_grad()
    def merge(self):
        self.base_layer.weight += self.scaling * self.B @ self.A
        self.B.zero_()


class KeepsTheSum(Plain):
    """While merged, one matrix of its own answers, and W₀ stays where it is."""

    W = None

    @torch.no_grad()
    def merge(self):
        self.W = self.base_layer.weight + self.scaling * self.B @ self.A

    def unmerge(self):
        self.W = None

    def forward(self, x):
        return super().forward(x) if self.W is None else F.linear(x, self.W, self.base_layer.bias)


class ReturnsALinear(Plain):
    @torch.no_grad()
    def merge(self):
        new = copy.deepcopy(self.base_layer)
        new.weight += self.scaling * self.B @ self.A
        return new


class ThrowsTheFactorsAway(Plain):
    @torch.no_grad()
    def merge(self):
        if self.A is None:
            raise RuntimeError("merged already")
        self.base_layer.weight += self.scaling * self.B @ self.A
        self.A = self.B = None

    def forward(self, x):
        return self.base_layer(x) if self.A is None else super().forward(x)


class UnmergesToTrain(Plain):
    """Merged for eval mode only, as loralib has it: `train()` takes the adapter out again."""

    merged = False

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            self.W0 = self.base_layer.weight.data.clone()
            self.base_layer.weight.data += self.scaling * self.B @ self.A
            self.merged = True

    @torch.no_grad()
    def unmerge(self):
        if self.merged:
            self.base_layer.weight.data, self.merged = self.W0, False

    def train(self, mode=True):
        if mode:
            self.unmerge()
        return super().train(mode)

    def forward(self, x):
        return self.base_layer(x) if self.merged else super().forward(x)


RIGHT = [value for value in list(vars().values()) if isinstance(value, type) and issubclass(value, nn.Module) and value is not Update]  # fmt: skip
