"""Two adapters on one base, added up: does the overlap of their updates tell how much they disturb each other? On the digits. Chapter 07.

A reader of upright digits learns six other ways to see them, an adapter each. A run trains two, measures each alone, their sum and half
their sum on the validation digits of both, and how far their updates overlap: the cosine of the updates, all layers as one vector, and of
the subspaces in which A reads and B writes the mean squared cosine of the principal angles (r/n for two random ones). A pair of the
same task is trained from two seeds.
"""

import copy
import itertools
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_parameters
from lora_edu.adapters.injection import inject
from lora_edu.adapters.interference import mean_cosine, overlap
from lora_edu.adapters.switching import set_adapter, set_scale
from lora_edu.course.sweeps.cut_later import LAYERS, reader
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.tasks.digits import Digits, load_digits, train_digits

R, ALPHA, RATE, EPOCHS = 4, 16, 1e-2, 15
SEEN = {  # images (n, 8, 8) → as the reader is to see them
    "turned by 90°": lambda x: torch.rot90(x, 1, (1, 2)),
    "turned by 180°": lambda x: torch.rot90(x, 2, (1, 2)),
    "turned by 270°": lambda x: torch.rot90(x, 3, (1, 2)),
    "mirrored": lambda x: x.flip(2),
    "negative": lambda x: 1 - x,
    "columns shuffled": lambda x: x[:, :, [3, 6, 1, 4, 7, 0, 5, 2]],
}


@cache
def seen(task: str) -> Digits:
    """The digits of the course, seen in one of six ways; the same split in all."""
    digits = load_digits()

    def other(x: Tensor) -> Tensor:
        return SEEN[task](x.reshape(-1, 8, 8)).reshape(-1, 64)

    return digits._replace(x_train=other(digits.x_train), x_valid=other(digits.x_valid), x_test=other(digits.x_test))


@cache
def _trained(task: str, seed: int) -> dict[str, Tensor]:
    """The factors of one adapter, trained alone on its view; a pair shares them with every other pair."""
    model = copy.deepcopy(reader())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject(model, LoRAConfig(r=R, lora_alpha=ALPHA, target_modules=LAYERS))
        train_digits(model, seen(task), lr=RATE, epochs=EPOCHS, seed=seed)
    return {name: factor.detach() for name, factor in adapter_parameters(model, "default").items()}


def pair(base: nn.Module, first: str, second: str, seed: int) -> nn.Module:
    """A copy of `base` with the adapters "first" and "second", each trained alone on its view; both silent."""
    model = copy.deepcopy(base)
    for number, (name, task) in enumerate((("first", first), ("second", second))):
        inject(model, LoRAConfig(r=R, lora_alpha=ALPHA, target_modules=LAYERS), name)
        trained = _trained(task, 2 * seed + number)
        with torch.no_grad():
            for own, factor in adapter_parameters(model, name).items():
                factor.copy_(trained[f"{own.removesuffix(name)}default"])
    set_adapter(model, None)
    return model


@torch.no_grad()
def _measured(model: nn.Module, task: str) -> tuple[float, float]:
    logits, y = model(seen(task).x_valid), seen(task).y_valid
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


def overlaps(model: nn.Module) -> dict[str, float]:
    """cosine, reads, writes of the adapters "first" and "second", as the sweep stores them."""
    found = overlap(model, "first", "second")
    shared = {
        name: sum(getattr(each, f"shared_{name}") for each in found.values()) / len(found)
        for name in ("reads", "writes")
    }
    return {"cosine": mean_cosine(found), **shared}


def _run(base: nn.Module, cell: Cell, seed: int) -> dict[str, float]:
    tasks = (cell["first"], cell["second"])
    model = pair(base, *tasks, seed)
    found = overlaps(model)
    for way, names, scale in (
        ("alone", None, 1.0),
        ("sum", ("first", "second"), 1.0),
        ("half", ("first", "second"), 0.5),
    ):
        for name, task in zip(("first", "second"), tasks):
            set_adapter(model, names or name)
            set_scale(model, scale)
            found[f"{way}_{name}_loss"], found[f"{way}_{name}"] = _measured(model, task)
    return found


SWEEP = Sweep(
    name="sums_of_two",
    title="two adapters of one base added up, and what their overlap says beforehand: six views of the digits",
    chapter="07",
    cells=[{"first": first, "second": second} for first, second in itertools.combinations_with_replacement(SEEN, 2)],
    seeds=(0, 1, 2),
    metrics=(
        *(
            f"{way}_{name}{loss}"
            for way in ("alone", "sum", "half")
            for name in ("first", "second")
            for loss in ("_loss", "")
        ),
        "cosine",
        "reads",
        "writes",
    ),
    settings={"r": R, "alpha": ALPHA, "learning_rate": RATE, "epochs": EPOCHS, "layers": list(LAYERS)},
    base=reader,
    run=_run,
)
