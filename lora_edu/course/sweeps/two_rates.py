"""A's learning rate × B's: the two knobs that are left of four, on turned digits with Adam. Chapter 08.

By law 4 a run with Adam (no decay, no clipping, a tiny ε) depends on α, on A's start and on both learning rates through two numbers only: A's rate in units of A's start, and B's rate
times s times A's start. So the grid is made once, at s = 1 and PEFT's start, and holds the measured curve of every other choice too. Equal rates
are a diagonal of it, s moves along B's axis, and LoRA+ is every point off the diagonal.
"""

import math

import torch
from torch import nn

from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.course.sweeps.rates_ranks import adapted, loss_and_share, rows
from lora_edu.experiments.sweeps import Cell, Sweep, grid
from lora_edu.tasks.digits import train_digits
from lora_edu.training.optimizers import loraplus_groups

R, EPOCHS = 8, 6
STEPS = (4, 8, 16, 32, 64, 126)  # of which the validation loss is kept; the last ends the run
A_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
B_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    digits, model = rows(True), adapted(base, R, 1.0, seed)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    a, b = cell["rate_A"], cell["rate_B"]
    groups = loraplus_groups(model, trained, learning_rate=a, ratio=b / a)
    for group in groups:
        group["lr"] = a * group.pop("times")
    found: dict[str, float] = {}

    def watch(step: int) -> None:
        if step in STEPS:
            loss = loss_and_share(model, digits.x_valid, digits.y_valid)[0]
            found[f"valid_loss_{step}"] = loss if math.isfinite(loss) else math.nan

    train_digits(model, digits, epochs=EPOCHS, seed=seed, optimizer=torch.optim.AdamW(groups), watch=watch)
    found["valid"] = loss_and_share(model, digits.x_valid, digits.y_valid)[1]
    return found


SWEEP = Sweep(
    name="two_rates",
    title="A's learning rate × B's with Adam: validation loss on turned digits, along the run",
    chapter="08",
    cells=grid(rate_A=A_RATES, rate_B=B_RATES),
    seeds=(0, 1, 2),
    metrics=(*(f"valid_loss_{step}" for step in STEPS), "valid"),
    settings={
        "r": R, "scale": 1.0, "epochs": EPOCHS, "layers": list(LAYERS),
        "optimiser": "AdamW without decay, batches of 64, constant rates",
    },
    base=reader,
    run=_run,
)  # fmt: skip
