"""LoRA and its neighbours compared, each at its own learning rate: the second of two stages. Chapter 12.

`neighbours_pilot` chose a rate for each, on validation rows and with seed 0. Here each trains at that rate with three other seeds, the same three for
all, and is judged on test rows, which nothing was chosen by. Three methods have also been run at the next rate below (`BELOW`). That was not
planned: these nine runs were begun before the pilot's rows of rates were whole, and read the test rows first. The chosen rates come from the pilot
alone. The nine are kept, because they show what the better rate cost on plain prose.
"""

from functools import partial

from lora_edu.course.sweeps.neighbours_pilot import SETTINGS, judged
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import Base, load_base

CHOSEN = {  # the rate with the lowest validation loss in the stored pilot; a test compares
    "LoRA, r = 1, q and v": 3e-2,
    "IA³": 1e-1,
    "prefix, 5 tokens": 1e-1,
    "bottleneck, m = 1": 1e-2,
    "prompt, 20 tokens": 3e-2,
    "LoRA, r = 8, all-linear": 3e-3,
    "full fine-tuning": 3e-4,
}
BELOW = {"LoRA, r = 1, q and v": 1e-2, "IA³": 3e-2, "prefix, 5 tokens": 3e-2}  # the next rate of the pilot's row
JUDGING_ROWS = 48  # rows of the test split


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    loss, exact, general = judged(base, cell["method"], cell["learning_rate"], seed, "test", JUDGING_ROWS)
    return {"test": loss, "exact": exact, "general": general}


SWEEP = Sweep(
    name="neighbours",
    title="LoRA and its neighbours, each at its own learning rate, three paired seeds; test loss on intents",
    chapter="12",
    cells=[{"method": name, "learning_rate": rate} for rates in (CHOSEN, BELOW) for name, rate in rates.items()],
    seeds=(1, 2, 3),
    metrics=("test", "exact", "general"),
    settings=SETTINGS | {"judging_rows": JUDGING_ROWS},
    base=partial(load_base, device="cpu"),
    run=_run,
)
