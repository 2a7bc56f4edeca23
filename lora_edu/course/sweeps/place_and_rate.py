"""The two choices of `targets_grid` that lie furthest apart at one learning rate, each at three rates. Chapter 04.

All-linear against all seven matrices of the last ten layers, at the same scale and nearly the same bytes. `choosing` is the loss on the
first half of `targets_grid`'s 48 held-out rows, by which each place's rate is chosen; `loss` is that on the other half, which chooses
nothing. In 32 bits, which every processor adds at full speed (`targets_grid` was made in 16; the two agree within 0.001).
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
RATES = (1e-3, 2e-3, 4e-3)
PRECISION, HALF = "fp32", HELD_OUT // 2


def losses(base: Base, choice: Choice, learning_rate: float, seed: int) -> dict[str, float]:
    """Nats an answer token on the rows that choose and on those that judge, after one run. Chapter 04."""
    rows = encode_rows(get_task(TASK).splits().valid[:HELD_OUT], base.tokenizer)
    with trained(base, at_scale(choice), learning_rate=learning_rate, seed=seed, precision=PRECISION) as trainer:
        return {"choosing": trainer.evaluate(rows[:HALF]), "loss": trainer.evaluate(rows[HALF:])}


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    return losses(base, Choice.of_cell(cell), cell["learning_rate"], seed)


SWEEP: Sweep = replace(
    targets_grid.SWEEP,
    name="place_and_rate",
    title="all-linear and the last ten layers, at three learning rates each; held-out loss on dates",
    cells=[choice.cell() | {"learning_rate": rate} for choice in (LAST_TEN, ALL_LINEAR) for rate in RATES],
    metrics=("choosing", "loss"),
    settings={
        "base": DEFAULT_MODEL,
        "task": TASK,
        "train": {
            key: value for key, value in TRAIN.to_dict().items() if key not in ("learning_rate", "seed", "precision")
        },
        "precision": PRECISION,
        "scale": SCALE,
        "held_out_rows": HELD_OUT,
    },
    run=_run,
)
