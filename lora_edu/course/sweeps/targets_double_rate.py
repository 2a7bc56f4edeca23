"""The two choices of `targets_grid` that lie furthest apart there, at twice its learning rate. Chapter 04.

In 32 bits, which every processor multiplies at full speed; `targets_grid` was made in 16.
"""

from dataclasses import replace

from lora_edu.course.sweeps import targets_grid
from lora_edu.course.sweeps.targets_grid import TRAIN, at_scale, held_out_loss
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, Choice
from lora_edu.experiments.sweeps import Cell
from lora_edu.models.base import Base

LAST_TEN = Choice(KINDS, (20, 29), 24)
CHANGES = {"learning_rate": 2 * TRAIN.learning_rate, "precision": "fp32"}


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    return {"loss": held_out_loss(base, at_scale(Choice.of_cell(cell)), seed, **CHANGES)}


SWEEP = replace(
    targets_grid.SWEEP,
    name="targets_double_rate",
    title="all-linear and the last ten layers of targets_grid, at twice its learning rate; held-out loss on dates",
    cells=[LAST_TEN.cell(), ALL_LINEAR.cell()],
    settings={**targets_grid.SWEEP.settings, "train": {**TRAIN.to_dict(), **CHANGES}},
    run=_run,
)
