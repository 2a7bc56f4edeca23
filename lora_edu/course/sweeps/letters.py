"""From digits to letters: LoRA on the convolutions of a small pretrained vision network, with a new head. Chapter 12.

A convolutional network that reads digits gets a new head of 26 letters and 208 rows to learn from. Five ways: the head alone; head and LoRA on the three
convolutions at two ranks; everything; and everything without the pretraining. Each at a row of learning rates; the letters of the validation fonts
choose, by the share that is read right; those of the test fonts are for what was chosen.
"""

import copy
import math

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.course.sweeps.rates_ranks import loss_and_share
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.tasks.digits import train_digits
from lora_edu.tasks.letters import CONVOLUTIONS, HEAD, load_letters, reader_of_digits, vision_net, with_new_head

ALPHA, PASSES, BATCH = 16, 20, 32
ALONE, EVERYTHING, UNTRAINED = "the head alone", "everything", "everything, without pretraining"
RANKS = {"LoRA, r = 2, and the head": 2, "LoRA, r = 8, and the head": 8}
RATES = {
    ALONE: (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    **dict.fromkeys(RANKS, (3e-4, 1e-3, 3e-3, 1e-2)),
    EVERYTHING: (3e-4, 1e-3, 3e-3, 1e-2),
    UNTRAINED: (3e-4, 1e-3, 3e-3, 1e-2),
}


def taught(base: nn.Module, way: str, rate: float, seed: int) -> nn.Module:
    """A copy of `base` (or an untrained network) that has learnt letters that way; the seed draws the head, A and the order of the rows."""
    model = with_new_head(vision_net(seed=seed) if way == UNTRAINED else copy.deepcopy(base), seed)
    if way in RANKS:
        config = LoRAConfig(r=RANKS[way], lora_alpha=ALPHA, target_modules=CONVOLUTIONS, modules_to_save=(HEAD,))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject(model, config)
    else:
        model.requires_grad_(way != ALONE).get_submodule(HEAD).requires_grad_(True)
    return train_digits(model, load_letters(), lr=rate, epochs=PASSES, batch_size=BATCH, seed=seed)


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    model, letters = taught(base, cell["way"], cell["learning_rate"], seed), load_letters()
    found: dict[str, float] = {}
    found["valid_loss"], found["valid"] = loss_and_share(model, letters.x_valid, letters.y_valid)
    found["test_loss"], found["test"] = loss_and_share(model, letters.x_test, letters.y_test)
    return found if math.isfinite(found["valid_loss"]) else dict.fromkeys(found, math.nan)


SWEEP = Sweep(
    name="letters",
    title="from digits to letters: the head alone, LoRA on the convolutions, everything, each at its own learning rate",
    chapter="12",
    cells=[{"way": way, "learning_rate": rate} for way, rates in RATES.items() for rate in rates],
    seeds=(0, 1, 2),
    metrics=("valid_loss", "valid", "test_loss", "test"),
    settings={
        "alpha": ALPHA, "passes": PASSES, "batch": BATCH,
        "optimiser": "AdamW without decay, a constant rate",
    },
    base=reader_of_digits,
    run=_run,
)  # fmt: skip
