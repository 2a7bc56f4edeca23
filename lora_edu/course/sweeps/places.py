"""Places compared, each at its own learning rate: the second of two stages. Chapters 04 and 09.

`places_pilot` chose a rate for each place, on validation rows and with seed 0. Here each place trains at that rate with five other seeds, the
same five for all, and is judged on test rows, which nothing was chosen by. A seed draws A and the order of the rows.
"""

from functools import partial

from lora_edu.course.sweeps.places_pilot import PLACES, SETTINGS, judged
from lora_edu.experiments.choices import Choice
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import Base, load_base

CHOSEN = {  # the rate with the lowest validation loss in the stored pilot; a test compares
    "all-linear": 1e-3,
    "attention": 1e-3,
    "MLP": 2e-3,
    "q and v": 2e-3,
    "last ten layers": 4e-3,
    "attention, r = 8": 4e-3,
}
JUDGING_ROWS = 64  # rows of the test split


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    loss, exact = judged(base, Choice.of_cell(cell), cell["learning_rate"], seed, "test", JUDGING_ROWS)
    return {"test": loss, "exact": exact}


SWEEP = Sweep(
    name="places",
    title="places at equal parameters and equal scale, each at its own learning rate, five paired seeds; test loss on dates",
    chapter="09",
    cells=[place.cell() | {"learning_rate": CHOSEN[name]} for name, place in PLACES.items()],
    seeds=(1, 2, 3, 4, 5),
    metrics=("test", "exact"),
    settings=SETTINGS | {"judging_rows": JUDGING_ROWS},
    base=partial(load_base, device="cpu"),
    run=_run,
)
