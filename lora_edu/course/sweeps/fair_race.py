"""LoRA and its variants in one race, each at a row of learning rates: turned digits. Chapter 10.

A reader of upright digits is adapted to turned ones, at one rank and for as many steps, by plain LoRA, by six of its variants, and by full
fine-tuning. Every method has the same budget of trials: twelve learning rates, a quarter of a decade apart, wide enough that no best one lies
at an edge; what else it has to set is what its paper or PEFT says (LoRA+: B's rate 16 times A's). The rate is chosen on the validation
digits, the test digits speak once, at that rate. `upright_loss` is the general loss: how well the upright digits are still read.
"""

import copy
import math
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.course.sweeps.rates_ranks import losses_and_shares, rows
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.tasks.digits import train_digits
from lora_edu.training.config import TrainConfig
from lora_edu.training.optimizers import freeze_for, new_optimizer

R, ALPHA, SEEDS = 8, 16, (0, 1, 2, 3, 4)
EPOCHS = (6, 18)  # a short run and one of three times as many steps: a head start is not a better end
FULL = "full fine-tuning"
METHODS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {  # (what the adapter does otherwise, what the optimiser does otherwise)
    "LoRA": ({}, {}),
    "rsLoRA": ({"use_rslora": True}, {}),
    "LoRA+": ({}, {"loraplus_lr_ratio": 16.0}),
    "LoRA-FA": ({}, {"optimizer": "lorafa"}),
    "DoRA": ({"variant": "dora"}, {}),
    "PiSSA": ({"variant": "pissa"}, {}),
    "OLoRA": ({"variant": "olora"}, {}),
    FULL: (None, {}),
}
RATES = tuple(float(f"{10 ** (k / 4):.2g}") for k in range(-15, -3))  # 1.8e-4 … 0.1, a quarter of a decade apart


def prepared(base: nn.Module, method: str, rate: float, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of `base` that trains by `method`, and the optimiser for it; what is drawn is drawn with `seed`."""
    adapter, training = METHODS[method]
    config = TrainConfig(learning_rate=rate, weight_decay=0.0, **training)
    model = copy.deepcopy(base).requires_grad_(True)
    if adapter is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject(model, LoRAConfig(r=R, lora_alpha=ALPHA, target_modules=LAYERS, **adapter))
    freeze_for(model, config)
    trains = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return model, new_optimizer(model, trains, config)


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    model, optimizer = prepared(base, cell["method"], cell["learning_rate"], seed)
    train_digits(model, rows(True), epochs=cell["epochs"], seed=seed, optimizer=optimizer)
    found = losses_and_shares(model)
    return found if math.isfinite(found["valid_loss"]) else dict.fromkeys(found, math.nan)


SWEEP = Sweep(
    name="fair_race",
    title="LoRA, its variants and full fine-tuning, each at its own learning rate: turned digits, and what is left of upright ones",
    chapter="10",
    cells=[
        {"method": method, "epochs": epochs, "learning_rate": rate}
        for epochs in EPOCHS
        for method in METHODS
        for rate in RATES
    ],
    seeds=SEEDS,
    metrics=("valid_loss", "valid", "test_loss", "test", "upright_loss", "upright"),
    settings={
        "r": R, "α": ALPHA, "layers": list(LAYERS),
        "optimiser": "AdamW without decay, a constant rate; batches of 64; LoRA+ with B's rate × 16",
    },
    base=reader,
    run=_run,
)  # fmt: skip
