"""The two choices of `targets_grid` that lie furthest apart at one learning rate, each at four rates. Chapter 04.

All-linear against all seven matrices of the last ten layers, at the same scale and nearly the same bytes. Each place has the same number
of rates, a factor of two apart, placed so that its best lies between two others. `choosing` is the loss on the 48 validation rows of
`targets_grid`, by which a rate is chosen; `loss` is that on the other 52, which choose nothing.
"""

from dataclasses import replace

from lora_edu.course.sweeps import targets_grid
from lora_edu.course.sweeps.targets_grid import HELD_OUT, SCALE, TASK, TRAIN, at_scale, trained
from lora_edu.data.examples import encode_rows
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, Choice
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import DEFAULT_MODEL, Base
from lora_edu.tasks import get_task

LAST_TEN = Choice(KINDS, (20, 29), 24)
RATES = {ALL_LINEAR: (5e-4, 1e-3, 2e-3, 4e-3), LAST_TEN: (1e-3, 2e-3, 4e-3, 8e-3)}


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    valid = encode_rows(get_task(TASK).splits().valid, base.tokenizer)
    with trained(base, at_scale(Choice.of_cell(cell)), seed, cell["learning_rate"]) as trainer:
        return {"choosing": trainer.evaluate(valid[:HELD_OUT]), "loss": trainer.evaluate(valid[HELD_OUT:])}


SWEEP: Sweep = replace(
    targets_grid.SWEEP,
    name="place_and_rate",
    title="all-linear and the last ten layers, at four learning rates each; held-out loss on dates",
    cells=[choice.cell() | {"learning_rate": rate} for choice, rates in RATES.items() for rate in rates],
    metrics=("choosing", "loss"),
    settings={
        "base": DEFAULT_MODEL,
        "task": TASK,
        "train": {key: value for key, value in TRAIN.to_dict().items() if key not in ("learning_rate", "seed")},
        "scale": SCALE,
        "held_out_rows": HELD_OUT,
    },
    run=_run,
)
