"""Which learning rate for which variant, on a real language model: one seed, validation rows. Chapter 10.

Four variants train on dates at a row of learning rates, with the settings of `places_pilot`; plain LoRA's row is that sweep's "all-linear", the
same runs. This chooses rates and judges nothing: the comparison itself, with other seeds and on test rows, is `fair_race_llm`.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from lora_edu.adapters.config import LoRAConfig
from lora_edu.course.sweeps.fair_race import METHODS
from lora_edu.course.sweeps.places_pilot import CHOOSING_ROWS, PRECISION, SETTINGS, loss_and_exact
from lora_edu.course.sweeps.targets_grid import TASK, at_scale, trained
from lora_edu.data.examples import encode_rows
from lora_edu.experiments.choices import ALL_LINEAR
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import Base, load_base
from lora_edu.tasks import get_task

RATES = {  # a factor of 2 apart; LoRA+ was best at the lowest of its first four, and was given two more
    "rsLoRA": (2.5e-4, 5e-4, 1e-3, 2e-3),
    "LoRA+": (3.125e-5, 6.25e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3),
    "DoRA": (5e-4, 1e-3, 2e-3, 4e-3),
    "PiSSA": (2.5e-4, 5e-4, 1e-3, 2e-3),
}


def prepared(method: str) -> tuple[LoRAConfig, dict[str, Any]]:
    """The adapter of a method, all-linear at rank 8, and what its training does otherwise; plain LoRA's is that of `places`."""
    adapter, training = METHODS[method]
    return replace(at_scale(ALL_LINEAR), **(adapter or {})), training


def judged(base: Base, method: str, rate: float, seed: int, part: str, rows: int) -> tuple[float, float]:
    """`loss_and_exact` on the first rows of a part of the split, of `method` trained at `rate`."""
    model, tokenizer = base
    held_out = encode_rows(getattr(get_task(TASK).splits(), part)[:rows], tokenizer)
    config, training = prepared(method)
    with trained(base, config, seed=seed, learning_rate=rate, precision=PRECISION, **training):
        return loss_and_exact(model, held_out, tokenizer.pad_token_id)


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    loss, exact = judged(base, cell["method"], cell["learning_rate"], seed, "valid", CHOOSING_ROWS)
    return {"valid": loss, "exact": exact}


SWEEP = Sweep(
    name="fair_race_llm_pilot",
    title="four variants of LoRA on SmolLM2, each at a row of learning rates, one seed; validation loss on dates",
    chapter="10",
    cells=[{"method": method, "learning_rate": rate} for method, rates in RATES.items() for rate in rates],
    seeds=(0,),
    metrics=("valid", "exact"),
    settings=SETTINGS | {"choosing_rows": CHOOSING_ROWS, "r": ALL_LINEAR.r, "LoRA+": "B's rate × 16"},
    base=partial(load_base, device="cpu"),
    run=_run,
)
