"""Where the adapter goes, at equal trainable bytes and equal scale. Chapter 04 and its BudgetPainter.

Ten choices of matrices, each with the rank that brings it nearest to all-linear's 2.44 million parameters at r = 8 (within 1.5 %),
train for a few steps on dates; the score is the loss a token of 48 held-out answers. One learning rate and one scale s = α/r for all,
so the scores are those of this short recipe and not of each choice at its best. An eleventh cell, without matrices, is the base as it is.
`targets_same_alpha` is the same with one α for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject, unload
from lora_edu.data.examples import collate, encode_rows
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, NOTHING, Choice
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.tasks import get_task
from lora_edu.training.config import TrainConfig
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.trainer import Trainer

TASK, HELD_OUT = "iso_dates", 48  # rows of the validation split that are scored
TRAIN = TrainConfig(learning_rate=1e-3, batch_size=4, max_steps=16, warmup_steps=2, precision="bf16")
SCALE = ALL_LINEAR.config().lora_alpha / ALL_LINEAR.r
EVERY_LAYER = (0, 29)
CHOICES = (
    ALL_LINEAR,
    Choice(("q", "v"), EVERY_LAYER, 42),
    Choice(("q", "k", "v", "o"), EVERY_LAYER, 21),
    Choice(("gate", "up", "down"), EVERY_LAYER, 13),
    Choice(("v",), EVERY_LAYER, 106),
    Choice(("o", "down"), EVERY_LAYER, 25),
    Choice(("v", "o", "down"), EVERY_LAYER, 20),
    Choice(KINDS, (0, 9), 24),
    Choice(KINDS, (10, 19), 24),
    Choice(KINDS, (20, 29), 24),
    NOTHING,
)


@contextmanager
def trained(base: Base, config: LoRAConfig | None, **changes: Any) -> Iterator[Trainer]:
    """A `Trainer` whose model has trained `config` with `TRAIN` (None: the base as it is). Chapter 04.

    base: the model, without adapters, and its tokenizer; it is left as it was.
    changes: to `TRAIN`, such as `learning_rate`; `seed` draws A and the order of the rows.
    """
    model, tokenizer = base
    settings = replace(TRAIN, **changes)
    rows = encode_rows(get_task(TASK).splits().train, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        inject(model, config or LoRAConfig())
    try:
        pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
        trainer = Trainer(model, rows, causal_lm_loss, settings, progress=False, collate=pad)
        if config is not None:
            trainer.train()
        yield trainer
    finally:
        unload(model)


def held_out_loss(base: Base, config: LoRAConfig | None, seed: int = 0, **changes: Any) -> float:
    """Nats an answer token on the held-out rows after `trained`; `changes` as there. Chapter 04."""
    held_out = encode_rows(get_task(TASK).splits().valid[:HELD_OUT], base.tokenizer)
    with trained(base, config, seed=seed, **changes) as trainer:
        return trainer.evaluate(held_out)


def at_scale(choice: Choice) -> LoRAConfig:
    """The choice's configuration with α = `SCALE` · r."""
    return replace(choice.config(), lora_alpha=SCALE * choice.r)


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    choice = Choice.of_cell(cell)
    return {"loss": held_out_loss(base, at_scale(choice) if choice.kinds else None, seed)}


SWEEP = Sweep(
    name="targets_grid",
    title="which matrices get the adapter, at equal trainable bytes and equal scale α/r; held-out loss on dates",
    chapter="04",
    cells=[choice.cell() for choice in CHOICES],
    seeds=(0, 1, 2),
    metrics=("loss",),
    settings={
        "base": DEFAULT_MODEL,
        "task": TASK,
        "train": TRAIN.to_dict(),
        "scale": SCALE,
        "held_out_rows": HELD_OUT,
    },
    base=partial(load_base, device="cpu"),
    run=_run,
)
