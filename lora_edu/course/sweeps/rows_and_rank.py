"""More rows, cleaner rows or a higher rank? Turned digits, few of them. Chapter 09.

A reader of upright digits is adapted to turned ones with 25 to 400 rows, at up to three ranks, with one wrong label in five or none. The seed draws
which rows, which of them are wrong and what they say instead, A and the order; a larger set holds the smaller one of its seed. Runs of one
length, 192 steps of 25 rows, and, for clean rows, runs of one number of passes, 12 (at 400 rows the two are one run). Each cell has a row of
learning rates; validation digits choose, test digits are for what was chosen.
"""

import math

import torch
from torch import Tensor, nn

from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.course.sweeps.rates_ranks import adapted, loss_and_share, rows
from lora_edu.experiments.sweeps import Cell, Sweep, grid
from lora_edu.tasks.digits import Digits, train_digits

ROWS, RANKS = (25, 50, 100, 200, 400), (1, 2, 8)
WRONG = 0.2  # share of wrong labels, besides none
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BATCH, STEPS, PASSES, ALPHA = 25, 192, 12, 16


def drawn(seed: int, n: int, wrong: float) -> Digits:
    """The turned digits with only `n` training rows, of which a share `wrong` has a label that is not theirs."""
    digits, draw = rows(True), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(digits.x_train), generator=draw)[:n]
    order, shift = torch.rand(len(digits.x_train), generator=draw), torch.randint(1, 10, (len(digits.x_train),), generator=draw)  # fmt: skip
    spoilt = order[:n].argsort()[: round(wrong * n)]  # places among the n rows
    y = digits.y_train[chosen]  # (n,)
    y[spoilt] = (y[spoilt] + shift[:n][spoilt]) % 10
    return digits._replace(x_train=digits.x_train[chosen], y_train=y)


def trained(base: nn.Module, cell: Cell, seed: int) -> nn.Module:
    """A copy of `base`, adapted as the cell says."""
    n, passes = cell["rows"], PASSES
    if cell["length"] == "192 steps":
        passes = STEPS * BATCH // n
    model = adapted(base, cell["r"], ALPHA / cell["r"], seed)
    return train_digits(
        model, drawn(seed, n, cell["wrong"]), lr=cell["learning_rate"], epochs=passes, batch_size=BATCH, seed=seed
    )


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    model, digits, found = trained(base, cell, seed), rows(True), {}
    parts: dict[str, tuple[Tensor, Tensor]] = {
        "valid": (digits.x_valid, digits.y_valid),
        "test": (digits.x_test, digits.y_test),
    }
    for part, (x, y) in parts.items():
        found[f"{part}_loss"], found[part] = loss_and_share(model, x, y)
    return found if math.isfinite(found["valid_loss"]) else dict.fromkeys(found, math.nan)


def _cells(length: str, n: tuple[int, ...], wrong: float, rates: tuple[float, ...]) -> list[Cell]:
    ranks = RANKS if length == "192 steps" else RANKS[::2]
    return grid(length=(length,), rows=n, wrong=(wrong,), r=ranks, learning_rate=rates)


SWEEP = Sweep(
    name="rows_and_rank",
    title="25 to 400 rows × rank × learning rate, at equal steps and at equal passes, and rows with wrong labels: turned digits",
    chapter="09",
    cells=[  # the fewer rows, the lower the best rate; where one lay at an edge, a rate was added
        *_cells("192 steps", ROWS[:2], 0.0, RATES[:-1]),
        *_cells("192 steps", ROWS[2:], 0.0, RATES[1:]),
        *_cells("192 steps", ROWS[1:3], WRONG, RATES[:-1]),
        *_cells("192 steps", ROWS[3:], WRONG, RATES[1:]),
        *_cells("12 passes", ROWS[:-1], 0.0, RATES[1:]),
    ],
    seeds=(0, 1, 2, 3),
    metrics=("valid_loss", "valid", "test_loss", "test"),
    settings={"batch": BATCH, "steps": STEPS, "passes": PASSES, "alpha": ALPHA, "layers": list(LAYERS), "optimiser": "AdamW without decay, a constant rate"},
    base=reader,
    run=_run,
)  # fmt: skip
