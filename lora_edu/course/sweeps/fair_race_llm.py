"""Variants of LoRA on a real language model, each at its own learning rate: the second of two stages. Chapter 10.

`fair_race_llm_pilot` chose a rate for each, on validation rows and with seed 0. Here each trains at that rate with the five seeds of `places` and is
judged on the same test rows; plain LoRA's five runs are that sweep's "all-linear", so every seed gives a pair.
"""

from functools import partial

from lora_edu.course.sweeps.fair_race_llm_pilot import judged
from lora_edu.course.sweeps.places import JUDGING_ROWS
from lora_edu.course.sweeps.places import SWEEP as PLACES_SWEEP
from lora_edu.course.sweeps.places_pilot import SETTINGS
from lora_edu.experiments.choices import ALL_LINEAR
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import Base, load_base

CHOSEN = {"rsLoRA": 1e-3, "LoRA+": 1.25e-4, "DoRA": 1e-3, "PiSSA": 1e-3}  # the rate with the lowest validation loss; a test compares


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    loss, exact = judged(base, cell["method"], cell["learning_rate"], seed, "test", JUDGING_ROWS)
    return {"test": loss, "exact": exact}


SWEEP = Sweep(
    name="fair_race_llm",
    title="four variants of LoRA on SmolLM2, each at its own learning rate, five seeds paired with plain LoRA's; test loss on dates",
    chapter="10",
    cells=[{"method": method, "learning_rate": rate} for method, rate in CHOSEN.items()],
    seeds=PLACES_SWEEP.seeds,
    metrics=("test", "exact"),
    settings=SETTINGS | {"judging_rows": JUDGING_ROWS, "r": ALL_LINEAR.r, "LoRA+": "B's rate × 16"},
    base=partial(load_base, device="cpu"),
    run=_run,
)
