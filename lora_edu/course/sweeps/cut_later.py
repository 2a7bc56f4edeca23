"""Train at a high rank and cut afterwards, or train at the low rank at once? At equal bytes, on the digits. Chapter 07.

A reader of upright digits is adapted to turned ones: by LoRA at five ranks, and by full fine-tuning, each at several learning rates. Every
run is measured as trained, and with its update cut to the nearest of rank 1, 2, 4 and 8 in each layer (`_cut_K`; NaN where there is
nothing to cut). The learning rate is chosen on the validation digits, the test digits are read once.
"""

import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject, unload
from lora_edu.adapters.merging import merge
from lora_edu.experiments.sweeps import Cell, Sweep, grid
from lora_edu.linalg import low_rank
from lora_edu.tasks.digits import Digits, load_digits, network, train_digits

LAYERS = ("0", "2", "4", "6")
CUTS = (1, 2, 4, 8)
FULL = "full"
EPOCHS, ALPHA = 15, 16


@cache
def reader() -> nn.Module:
    """A network that has learnt to read upright digits: the base of this sweep."""
    return train_digits(network(), load_digits(), epochs=15)


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight")


@cache
def _turned() -> Digits:
    return load_digits(turned=True)


@torch.no_grad()
def _measured(model: nn.Module, name: str) -> dict[str, float]:
    found = {}
    for rows, x, y in (("valid", _turned().x_valid, _turned().y_valid), ("test", _turned().x_test, _turned().y_test)):
        logits = model(x)
        found[f"{rows}_loss{name}"] = float(F.cross_entropy(logits, y))
        found[f"{rows}{name}"] = float((logits.argmax(1) == y).float().mean())
    return found


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    model = copy.deepcopy(base)
    before = {name: _weight(model, name).detach().clone() for name in LAYERS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if cell["r"] != FULL:
            inject(model, LoRAConfig(r=cell["r"], lora_alpha=ALPHA, target_modules=LAYERS))
        train_digits(model, _turned(), lr=cell["learning_rate"], epochs=EPOCHS, seed=seed)
    if cell["r"] != FULL:
        merge(model)
        unload(model)
    found = _measured(model, "")
    updates: dict[str, Tensor] = {name: _weight(model, name).detach() - before[name] for name in LAYERS}
    for k in CUTS:
        for name, update in updates.items():
            with torch.no_grad():
                _weight(model, name).copy_(before[name] + low_rank(update, min(k, *update.shape)))
        cut = _measured(model, f"_cut_{k}")
        found |= cut if cell["r"] == FULL or k < cell["r"] else dict.fromkeys(cut, math.nan)
    return found


SWEEP = Sweep(
    name="cut_later",
    title="train at a high rank and cut, or train at the low rank: turned digits, losses and accuracies by rank",
    chapter="07",
    cells=[
        *grid(r=(1, 2, 4, 8, 32), learning_rate=(1e-3, 3e-3, 1e-2, 3e-2)),
        *grid(r=(FULL,), learning_rate=(1e-4, 3e-4, 1e-3, 3e-3)),
    ],
    seeds=(0, 1, 2),
    metrics=tuple(
        f"{rows}{loss}{cut}"
        for cut in ("", *(f"_cut_{k}" for k in CUTS))
        for rows in ("valid", "test")
        for loss in ("", "_loss")
    ),
    settings={"epochs": EPOCHS, "alpha": ALPHA, "layers": list(LAYERS), "optimiser": "AdamW, batches of 64, no decay"},
    base=reader,
    run=_run,
)
