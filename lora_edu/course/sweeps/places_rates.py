"""Two places, each at its own learning rate: all-linear against the last ten layers, at equal bytes and equal scale. Chapter 04.

The runs of `targets_grid` at several rates. `valid` is the loss a token of the answers on the rows that choose a place's
rate, `test` that on other rows: it is read once, at the rate that was chosen.
"""

from functools import partial

from lora_edu.course.sweeps import targets_grid
from lora_edu.course.sweeps.targets_grid import HELD_OUT, SCALE, TASK, TRAIN, at_scale, trained
from lora_edu.data.examples import encode_rows
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, Choice
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.tasks import get_task

LAST_TEN = Choice(KINDS, (20, 29), 24)
PLACES = (ALL_LINEAR, LAST_TEN)
RATES = (1e-3, 2e-3, 4e-3)
JUDGED_ON = HELD_OUT  # rows of the test split that judge


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    rows, rate = get_task(TASK).splits(), cell["learning_rate"]
    parts = {"valid": rows.valid[:HELD_OUT], "test": rows.test[:JUDGED_ON]}
    with trained(base, at_scale(Choice.of_cell(cell)), seed=seed, learning_rate=rate) as trainer:
        return {name: trainer.evaluate(encode_rows(part, base.tokenizer)) for name, part in parts.items()}


SWEEP = Sweep(
    name="places_rates",
    title="all-linear against the last ten layers at equal bytes and equal scale, each at its own learning rate; loss on dates",
    chapter="04",
    cells=[place.cell() | {"learning_rate": rate} for place in PLACES for rate in RATES],
    seeds=targets_grid.SWEEP.seeds,
    metrics=("valid", "test"),
    settings={
        "base": DEFAULT_MODEL,
        "task": TASK,
        "train": {key: value for key, value in TRAIN.to_dict().items() if key != "learning_rate"},
        "scale": SCALE,
        "choosing_rows": HELD_OUT,
        "judging_rows": JUDGED_ON,
    },
    base=partial(load_base, device="cpu"),
    run=_run,
)
