"""Where the adapter goes, at equal trainable bytes: `python benchmarks/targets_grid.py`. Chapter 04 and its BudgetPainter.

Ten choices of matrices, each with the rank that brings it nearest to all-linear's 2.44 million parameters at r = 8 (within 1.5 %),
train for a few steps on dates; the score is the loss a token of 48 held-out answers. One learning rate and one α for all, so the
scores are those of this short recipe and not of each choice at its best. Stored after every run in lora_edu/stored/targets_grid.safetensors;
a run that is stored already under the same settings and base model is not run again, so the command goes on where it was stopped.
"""

import argparse
import time
from typing import Any

import torch
from common import environment

from lora_edu.checkpoint import fingerprint
from lora_edu.course.targets_grid import HELD_OUT, TASK, TRAIN, held_out_loss
from lora_edu.errors import CheckpointError
from lora_edu.models import DEFAULT_MODEL, load_base
from lora_edu.stored import store, stored
from lora_edu.widgets.budget import ALL_LINEAR, KINDS, Choice, budget

NAME, SEEDS, EVERY_LAYER = "targets_grid", 3, (0, 29)
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
)


def begin(base: str) -> tuple[torch.Tensor, dict[str, Any]]:
    """The losses so far (choices, seeds), NaN where nothing ran yet, and what is to be known of them."""
    settings = {
        "base": DEFAULT_MODEL,
        "fingerprint": base,
        "task": TASK,
        "train": TRAIN.to_dict(),
        "lora_alpha": ALL_LINEAR.config().lora_alpha,
        "held_out_rows": HELD_OUT,
        "choices": [{"kinds": list(each.kinds), "layers": list(each.layers), "r": each.r} for each in CHOICES],
        "trainable_parameters": [budget(choice).parameters for choice in CHOICES],
    }
    about = {"command": f"python benchmarks/{NAME}.py", **settings, "cpu_seconds": 0, **environment()}
    try:
        tensors, before = stored(NAME)
        if {key: before.get(key) for key in settings} == settings and tensors["loss"].shape == (len(CHOICES), SEEDS):
            return tensors["loss"], before
        print("what is stored was made with other settings: starting anew")
    except CheckpointError:
        pass
    return torch.full((len(CHOICES), SEEDS), torch.nan), about


def main(limit: int | None) -> None:
    base = load_base(device="cpu")
    losses, about = begin(fingerprint(base.model))
    if "loss_of_base" not in about:
        about["loss_of_base"] = held_out_loss(base, None)
    runs = [(seed, i) for seed in range(SEEDS) for i in range(len(CHOICES)) if losses[i, seed].isnan()]
    for number, (seed, i) in enumerate(runs[:limit], 1):
        start = time.process_time()
        losses[i, seed] = held_out_loss(base, CHOICES[i].config(), seed)
        seconds = time.process_time() - start
        about["cpu_seconds"] = round(about["cpu_seconds"] + seconds)
        store(NAME, {"loss": losses}, about)
        print(
            f"{number}/{len(runs)}  seed {seed}  {CHOICES[i].place:28} r = {CHOICES[i].r:<4}"
            f" held-out loss {float(losses[i, seed]):.3f}  ({seconds:.0f} CPU s)",
            flush=True,
        )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--limit", type=int, help="stop after so many runs; the next call goes on")
    main(arguments.parse_args().limit)
