"""Which learning rate for which rank, under which rule for the scale? Turned digits, Adam and SGD. Chapter 08.

A reader of upright digits is adapted to turned ones at six ranks. Three rules say what the scale s becomes when r grows: α/r at one α,
α/√r at one α (rsLoRA), and one s for all; they agree at r = 4. Each at a row of learning rates, half a decade apart, wide enough that no best
one lies at an edge. The rate is chosen on the validation digits; the test digits speak once, at the rate that was chosen. `upright_loss` is the
general loss: how well the network still reads the digits that it could read before.
"""

import copy
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.injection import inject
from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.tasks.digits import Digits, load_digits, train_digits

RANKS = (1, 2, 4, 8, 16, 64)
MEET, SCALE = 4, 4.0  # at this rank all rules give this scale
RULES = {
    "α/r": lambda r: SCALE * MEET / r,
    "α/√r": lambda r: SCALE * math.sqrt(MEET / r),
    "one s": lambda r: SCALE,
}
RATES = {  # of each optimiser and rule; as they had to be for the best one to lie inside
    ("Adam", "α/r"): (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    ("Adam", "α/√r"): (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    ("Adam", "one s"): (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    ("SGD", "α/r"): (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0),
    ("SGD", "α/√r"): (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0),
}
EPOCHS, EARLY = 6, (8, 32)  # EARLY: steps after which the validation loss is kept too


@cache
def rows(turned: bool) -> Digits:
    """The course's digits, read once."""
    return load_digits(turned)


@torch.no_grad()
def loss_and_share(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean loss in nats a digit, and the share of digits that `model` names right."""
    logits = model(x)
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


def losses_and_shares(model: nn.Module) -> dict[str, float]:
    """`loss_and_share` of a model that was taught turned digits: on the validation and test digits, and on upright ones."""
    digits, upright = rows(True), rows(False)
    found: dict[str, float] = {}
    found["valid_loss"], found["valid"] = loss_and_share(model, digits.x_valid, digits.y_valid)
    found["test_loss"], found["test"] = loss_and_share(model, digits.x_test, digits.y_test)
    found["upright_loss"], found["upright"] = loss_and_share(model, upright.x_valid, upright.y_valid)
    return found


def adapted(base: nn.Module, r: int, scale: float, seed: int) -> nn.Module:
    """A copy of `base` with an adapter at every layer, A drawn with `seed`."""
    model = copy.deepcopy(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject(model, LoRAConfig(r=r, lora_alpha=scale * r, target_modules=LAYERS))
    return model


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    digits = rows(True)
    model = adapted(base, cell["r"], RULES[cell["rule"]](cell["r"]), seed)
    found: dict[str, float] = {}

    def watch(step: int) -> None:
        if step in EARLY:
            found[f"valid_loss_{step}"] = loss_and_share(model, digits.x_valid, digits.y_valid)[0]

    momentum = None if cell["optimiser"] == "Adam" else 0.0
    train_digits(model, digits, lr=cell["learning_rate"], epochs=EPOCHS, seed=seed, momentum=momentum, watch=watch)
    found |= losses_and_shares(model)
    return found if math.isfinite(found["valid_loss"]) else dict.fromkeys(found, math.nan)


SWEEP = Sweep(
    name="rates_ranks",
    title="learning rate × rank under three rules for the scale, Adam and SGD: turned digits, and what is left of upright ones",
    chapter="08",
    cells=[
        {"optimiser": optimiser, "rule": rule, "r": r, "learning_rate": rate}
        for (optimiser, rule), rates in RATES.items()
        for r in RANKS
        for rate in rates
    ],
    seeds=(0, 1, 2),
    metrics=(
        *(f"valid_loss_{step}" for step in EARLY),
        "valid_loss", "valid", "test_loss", "test", "upright_loss", "upright",
    ),
    settings={
        "epochs": EPOCHS, "scale at r = 4": SCALE, "layers": list(LAYERS),
        "optimisers": "AdamW without decay; SGD without momentum; batches of 64, a constant rate",
    },
    base=reader,
    run=_run,
)  # fmt: skip
