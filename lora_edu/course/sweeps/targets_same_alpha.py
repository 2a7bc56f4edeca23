"""The choices of `targets_grid` with one α for all, as many recipes have it: a higher rank then also gets a smaller scale. Chapter 04."""

from dataclasses import replace

from lora_edu.course.sweeps import targets_grid
from lora_edu.course.sweeps.targets_grid import held_out_loss
from lora_edu.experiments.choices import ALL_LINEAR, Choice
from lora_edu.experiments.sweeps import Cell
from lora_edu.models.base import Base


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    choice = Choice.of_cell(cell)
    return {"loss": held_out_loss(base, choice.config() if choice.kinds else None, seed)}


SWEEP = replace(
    targets_grid.SWEEP,
    name="targets_same_alpha",
    title="the choices of targets_grid at one α for all, so that a higher rank has a smaller scale; held-out loss on dates",
    settings={
        **{key: value for key, value in targets_grid.SWEEP.settings.items() if key != "scale"},
        "lora_alpha": ALL_LINEAR.config().lora_alpha,
    },
    run=_run,
)
