"""Where the adapter goes, at equal trainable bytes: `python benchmarks/targets_grid.py`. Chapter 04 and its BudgetPainter.

Ten choices of matrices, each with the rank that brings it nearest to all-linear's 2.44 million parameters at r = 8 (within 1.5 %),
train for a few steps on dates; the score is the loss a token of 64 held-out answers. One learning rate and one α for all, so the
scores are those of this short recipe and not of each choice at its best. Stored after every run in lora_edu/stored/targets_grid.safetensors;
a run that is stored already under the same settings and base model is not run again, so the command goes on where it was stopped.
"""

import argparse
import time
from functools import partial
from typing import Any

import torch
from common import environment

from lora_edu.adapters import audit, inject, unload
from lora_edu.checkpoint import fingerprint
from lora_edu.config import LoRAConfig
from lora_edu.data import collate, encode_rows
from lora_edu.errors import CheckpointError
from lora_edu.losses import causal_lm_loss
from lora_edu.models import DEFAULT_MODEL, load_base
from lora_edu.stored import store, stored
from lora_edu.tasks import get_task
from lora_edu.trainer import TrainConfig, Trainer

NAME, TASK, SEEDS, HELD_OUT, ALPHA = "targets_grid", "iso_dates", 3, 64, 16
TRAIN = TrainConfig(learning_rate=1e-3, batch_size=4, max_steps=24, warmup_steps=2, precision="fp32")
LINEAR, ALL = ("q", "k", "v", "o", "gate", "up", "down"), (0, 29)
CHOICES = (  # (matrices, first and last layer, rank)
    (LINEAR, ALL, 8),
    (("q", "v"), ALL, 42),
    (("q", "k", "v", "o"), ALL, 21),
    (("gate", "up", "down"), ALL, 13),
    (("v",), ALL, 106),
    (("o", "down"), ALL, 25),
    (("v", "o", "down"), ALL, 20),
    (LINEAR, (0, 9), 24),
    (LINEAR, (10, 19), 24),
    (LINEAR, (20, 29), 24),
)


def lora(kinds: tuple[str, ...], layers: tuple[int, int], r: int) -> LoRAConfig:
    first, last = layers
    names = tuple(f"{kind}_proj" for kind in kinds)
    return LoRAConfig(r=r, lora_alpha=ALPHA, target_modules=names, layers_to_transform=tuple(range(first, last + 1)))


def begin(base: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """The losses so far (choices, seeds), NaN where nothing ran yet, and what is to be known of them."""
    about = {
        "command": f"python benchmarks/{NAME}.py",
        "base": DEFAULT_MODEL,
        "fingerprint": base,
        "task": TASK,
        "train": TRAIN.to_dict(),
        "lora_alpha": ALPHA,
        "held_out_rows": HELD_OUT,
        "choices": [{"kinds": list(kinds), "layers": list(layers), "r": r} for kinds, layers, r in CHOICES],
        "trainable_parameters": [0] * len(CHOICES),
        "cpu_seconds": 0,
        **environment(),
    }
    settings = ("base", "fingerprint", "task", "train", "lora_alpha", "held_out_rows", "choices")
    try:
        tensors, before = stored(NAME)
        if all(before[key] == about[key] for key in settings) and tensors["loss"].shape == (len(CHOICES), SEEDS):
            return tensors["loss"], about | {key: before[key] for key in (*about, "loss_of_base") if key in before}
        print("what is stored was made with other settings: starting anew")
    except CheckpointError:
        pass
    return torch.full((len(CHOICES), SEEDS), torch.nan), about


def main(limit: int | None) -> None:
    model, tokenizer = load_base(device="cpu")
    splits = get_task(TASK).splits()
    train, held_out = (encode_rows(rows, tokenizer) for rows in (splits.train, splits.valid[:HELD_OUT]))
    losses, about = begin(fingerprint(model))
    runs = [(seed, i) for seed in range(SEEDS) for i in range(len(CHOICES)) if losses[i, seed].isnan()]
    for number, (seed, i) in enumerate(runs[:limit], 1):
        start = time.process_time()
        torch.manual_seed(seed)
        inject(model, lora(*CHOICES[i]))
        settings = TrainConfig.from_dict(TRAIN.to_dict() | {"seed": seed})
        trainer = Trainer(
            model, train, causal_lm_loss, settings, eval_examples=held_out, progress=False,
            collate=partial(collate, pad_token_id=tokenizer.pad_token_id),
        )  # fmt: skip
        if "loss_of_base" not in about:
            about["loss_of_base"] = trainer.evaluate()
        history = trainer.train()
        losses[i, seed] = history.evaluations[-1]["loss"]
        about["trainable_parameters"][i] = audit(model).trainable
        unload(model)
        about["cpu_seconds"] += round(time.process_time() - start)
        store(NAME, {"loss": losses}, about)
        kinds, layers, r = CHOICES[i]
        seconds = time.process_time() - start
        print(
            f"{number}/{len(runs)}  seed {seed}  {'+'.join(kinds):28} layers {layers[0]}–{layers[1]}  r={r:<4}"
            f" held-out loss {float(losses[i, seed]):.3f}  ({seconds:.0f} CPU s)",
            flush=True,
        )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--limit", type=int, help="stop after so many runs; the next call goes on")
    main(arguments.parse_args().limit)
