"""The experiment behind chapter 04's grid: one choice of matrices, trained for a few steps on dates, judged on held-out rows.

`benchmarks/targets_grid.py` runs it for every choice and seed and stores the losses; the chapter runs one of them again.
"""

from functools import partial

import torch

from lora_edu.adapters import inject, unload
from lora_edu.config import LoRAConfig
from lora_edu.data import collate, encode_rows
from lora_edu.losses import causal_lm_loss
from lora_edu.models import Base
from lora_edu.tasks import get_task
from lora_edu.trainer import TrainConfig, Trainer

TASK, HELD_OUT = "iso_dates", 48  # rows of the validation split that are scored
TRAIN = TrainConfig(learning_rate=1e-3, batch_size=4, max_steps=16, warmup_steps=2, precision="bf16")


def held_out_loss(base: Base, config: LoRAConfig | None, seed: int = 0) -> float:
    """Nats an answer token on the held-out rows, after training `config` with `TRAIN` (None: of the base as it is). Chapter 04.

    base: the model, without adapters, and its tokenizer; it is left as it was. seed: draws A and the order of the rows.
    """
    model, tokenizer = base
    splits = get_task(TASK).splits()
    train, held_out = (encode_rows(rows, tokenizer) for rows in (splits.train, splits.valid[:HELD_OUT]))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject(model, config or LoRAConfig())
    try:
        trainer = Trainer(
            model, train, causal_lm_loss, TrainConfig.from_dict(TRAIN.to_dict() | {"seed": seed}),
            eval_examples=held_out, progress=False, collate=partial(collate, pad_token_id=tokenizer.pad_token_id),
        )  # fmt: skip
        return trainer.evaluate() if config is None else trainer.train().evaluations[-1]["loss"]
    finally:
        unload(model)
