"""LoRA and its neighbours on the digits: near what the base can do, and far from it. Chapter 12.

Two bases are taught turned digits: a reader of upright ones, and a network that has learnt nothing yet, which a low-rank change has to turn into a
reader by itself. Full fine-tuning, the biases alone (BitFit), factors (IA³, for every layer's output), bottlenecks behind every layer, and LoRA
at four ranks, each at a row of learning rates, half a decade apart. Validation digits choose, test digits are for what was chosen.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours.attaching import attach
from lora_edu.adapters.neighbours.bottleneck import Bottleneck
from lora_edu.adapters.neighbours.ia3 import IA3
from lora_edu.adapters.neighbours.in_place import BitFit, FullFineTuning
from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.course.sweeps.rates_ranks import losses_and_shares, rows
from lora_edu.experiments.sweeps import Cell, Sweep, grid
from lora_edu.tasks.digits import network, train_digits

ALPHA, EPOCHS, SEEDS = 16, 18, (0, 1, 2)
RANKS = (1, 4, 16, 64)
METHODS: dict[str, Any] = {
    "BitFit": BitFit(),
    "IA³": IA3(target_modules=LAYERS, feedforward_modules=()),
    "bottleneck, m = 8": Bottleneck(m=8, target_modules=LAYERS),
    **{f"LoRA, r = {r}": LoRAConfig(r=r, lora_alpha=ALPHA, target_modules=LAYERS) for r in RANKS},
    "full fine-tuning": FullFineTuning(),
}
BASES: dict[str, Callable[[], nn.Module]] = {"a reader": reader, "untrained": network}
LOW, USUAL, HIGH = (3e-4, 1e-3, 3e-3, 1e-2), (1e-3, 3e-3, 1e-2, 3e-2), (1e-2, 3e-2, 1e-1, 3e-1)
RATES = {"BitFit": HIGH, "IA³": HIGH, "full fine-tuning": LOW}  # the others' are USUAL


def trained(base: str, method: Any, rate: float, seed: int) -> nn.Module:
    """A copy of the base of that name that `method` has taught turned digits; the seed draws what it begins with and the order of the rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = attach(copy.deepcopy(BASES[base]()).requires_grad_(True), method)
    return train_digits(model, rows(True), lr=rate, epochs=EPOCHS, seed=seed)


def _run(_base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    found = losses_and_shares(trained(cell["base"], METHODS[cell["method"]], cell["learning_rate"], seed))
    return found if math.isfinite(found["valid_loss"]) else dict.fromkeys(found, math.nan)


SWEEP = Sweep(
    name="neighbours_digits",
    title="LoRA and its neighbours, each at its own learning rate: turned digits, from a reader of upright ones and from nothing",
    chapter="12",
    cells=[
        cell
        for base in BASES
        for method in METHODS
        for cell in grid(base=(base,), method=(method,), learning_rate=RATES.get(method, USUAL))
    ],
    seeds=SEEDS,
    metrics=("valid_loss", "valid", "test_loss", "test", "upright_loss", "upright"),
    settings={
        "α": ALPHA, "layers": list(LAYERS), "passes": EPOCHS,
        "optimiser": "AdamW without decay, a constant rate; batches of 64",
    },
    base=reader,
    run=_run,
)  # fmt: skip
