"""Freezing: what trains, by name and by byte. Chapter 16; chapter 03 §9 and chapter 04 §4."""

import torch
from torch import nn

from lora_edu.course.museum.specimen import exhibit


class _Pair(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Parameter(torch.randn(2, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x):
        return self.base_layer(x) + x @ self.lora_A.T @ self.lora_B.T


def _trains(module):
    return sorted(name for name, each in module.named_parameters() if each.requires_grad)


def _moved(module, optimizer):
    """How far W₀ is from its start after five steps, as a share of its size."""
    before = module.base_layer.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        module(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    return float((module.base_layer.weight.detach() - before).norm() / before.norm())


@exhibit(
    "frozen-then-replaced", room="freezing", title="A frozen layer, whose weight is then set to the old layer's",
    breaks="law 3", repair="Freeze last, or freeze the parameter that is used; and read off the model what trains.",
)  # fmt: skip
class FrozenThenReplaced:
    @staticmethod
    def broken():
        old, layer = nn.Linear(8, 8), _Pair(nn.Linear(8, 8))
        layer.base_layer.requires_grad_(False)
        layer.base_layer.weight = old.weight  # another parameter, which is not frozen
        return layer

    @staticmethod
    def sound():
        layer = _Pair(nn.Linear(8, 8))
        layer.base_layer.requires_grad_(False)
        return layer

    @staticmethod
    def holds(layer):
        assert _trains(layer) == ["lora_A", "lora_B"], f"what trains: {_trains(layer)}"


@exhibit(
    "frozen-by-substring", room="freezing", title='Everything with "lora" in its name trains',
    breaks="law 3", repair="Freeze by what a parameter is, not by a piece of its path.",
)  # fmt: skip
class FrozenBySubstring:
    @staticmethod
    def broken():
        model = nn.ModuleDict({"lora_q": _Pair(nn.Linear(8, 8))})
        for name, each in model.named_parameters():
            each.requires_grad = "lora" in name  # lora_q.base_layer.weight, too
        return model

    @staticmethod
    def sound():
        model = nn.ModuleDict({"lora_q": _Pair(nn.Linear(8, 8))})
        for name, each in model.named_parameters():
            each.requires_grad = name.rpartition(".")[2] in ("lora_A", "lora_B")
        return model

    @staticmethod
    def holds(model):
        wanted = ["lora_q.lora_A", "lora_q.lora_B"]
        assert _trains(model) == wanted, f"these train too: {sorted(set(_trains(model)) - set(wanted))}"


@exhibit(
    "nothing-frozen", room="freezing", title="The optimiser gets model.parameters(), and nothing was frozen",
    breaks="law 3", repair="Freeze W₀ first; then parameters() may hold it, it gets no gradient.",
)  # fmt: skip
class NothingFrozen:
    @staticmethod
    def broken():
        layer = _Pair(nn.Linear(8, 8))
        return _moved(layer, torch.optim.Adam(layer.parameters(), 1e-2))

    @staticmethod
    def sound():
        layer = _Pair(nn.Linear(8, 8).requires_grad_(False))
        return _moved(layer, torch.optim.Adam(layer.parameters(), 1e-2))

    @staticmethod
    def holds(moved):
        assert moved == 0, f"after five steps W₀ has moved by {moved:.0%} of its size"


@exhibit(
    "base-changed-in-place", room="freezing", title="The model “before” and the model “after” are one object",
    breaks="law 9", repair="Compare with the adapter switched off, or with a copy made beforehand.",
)  # fmt: skip
class BaseChangedInPlace:
    @staticmethod
    def broken():
        base = nn.Sequential(nn.Linear(8, 8))
        tuned = base  # what follows changes it in place, as inject and PEFT do
        tuned[0] = _Pair(tuned[0])
        tuned[0].get_parameter("lora_B").data.fill_(1)
        return base, tuned

    @staticmethod
    def sound():
        base = nn.Sequential(nn.Linear(8, 8))
        tuned = nn.Sequential(_Pair(base[0]))
        tuned[0].get_parameter("lora_B").data.fill_(1)
        return base, tuned

    @staticmethod
    def holds(models):
        x = torch.randn(5, 8)
        base, tuned = (model(x) for model in models)
        assert not torch.equal(base, tuned), "base and adapter answer alike, to the last bit: it is one model"
