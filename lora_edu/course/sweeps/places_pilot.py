"""Which learning rate for which place: the first of two stages. Chapters 04 and 09.

Places at equal trainable parameters and equal scale s = α/r, and one at equal r, each train for a few steps on dates at a row of learning
rates, one seed. The loss on validation rows chooses each place's rate; `places` then compares the places, with other seeds and other rows.
A rate is added where the best one lies at an edge, so that each place has its own row.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.course.sweeps.targets_grid import EVERY_LAYER, SCALE, TASK, TRAIN, at_scale, trained
from lora_edu.data.examples import IGNORE, Example, collate, encode_rows
from lora_edu.experiments.choices import ALL_LINEAR, KINDS, Choice
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.tasks import get_task

PLACES = {
    "all-linear": ALL_LINEAR,
    "attention": Choice(("q", "k", "v", "o"), EVERY_LAYER, 21),
    "MLP": Choice(("gate", "up", "down"), EVERY_LAYER, 13),
    "q and v": Choice(("q", "v"), EVERY_LAYER, 42),
    "last ten layers": Choice(KINDS, (20, 29), 24),
    "attention, r = 8": Choice(("q", "k", "v", "o"), EVERY_LAYER, 8),
}
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
MORE_RATES = {"all-linear": (5e-4,), "attention": (5e-4,)}  # where the best of `RATES` lies at an edge
PRECISION, CHOOSING_ROWS = "fp32", 40  # rows of the validation split


@torch.no_grad()
def loss_and_exact(model: nn.Module, rows: Sequence[Example], pad_token_id: int) -> tuple[float, float]:
    """Nats an answer token, and the share of rows whose answer the model would write whole.

    Greedy generation writes an answer exactly where each of its tokens, the end included, is the likeliest one after those before it:
    so one pass over the rows gives both.
    """
    model.eval()
    loss, tokens, exact = 0.0, 0, 0
    for start in range(0, len(rows), 8):
        batch = collate(rows[start : start + 8], pad_token_id=pad_token_id)
        targets = batch.pop("labels")[:, 1:]
        answer = targets != IGNORE
        keep = answer.any(dim=0).nonzero().flatten()
        logits = model(**batch, use_cache=False, logits_to_keep=keep).logits  # (B, K, V)
        targets, answer = targets[:, keep], answer[:, keep]
        loss += F.cross_entropy(logits[answer], targets[answer], reduction="sum").item()
        tokens += int(answer.sum())
        exact += int(((logits.argmax(dim=-1) == targets) | ~answer).all(dim=1).sum())
    return loss / tokens, exact / len(rows)


def judged(base: Base, choice: Choice, rate: float, seed: int, part: str, rows: int) -> tuple[float, float]:
    """`loss_and_exact` on the first rows of a part of the split, of `choice` trained at `rate`."""
    model, tokenizer = base
    held_out = encode_rows(getattr(get_task(TASK).splits(), part)[:rows], tokenizer)
    with trained(base, at_scale(choice), seed=seed, learning_rate=rate, precision=PRECISION):
        return loss_and_exact(model, held_out, tokenizer.pad_token_id)


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    loss, exact = judged(base, Choice.of_cell(cell), cell["learning_rate"], seed, "valid", CHOOSING_ROWS)
    return {"valid": loss, "exact": exact}


SETTINGS = {
    "base": DEFAULT_MODEL,
    "task": TASK,
    "train": {key: value for key, value in TRAIN.to_dict().items() if key != "learning_rate"}
    | {"precision": PRECISION},
    "scale": SCALE,
}
SWEEP = Sweep(
    name="places_pilot",
    title="places at equal parameters and equal scale, each at a row of learning rates, one seed; validation loss on dates",
    chapter="09",
    cells=[
        place.cell() | {"learning_rate": rate}
        for name, place in PLACES.items()
        for rate in sorted((*RATES, *MORE_RATES.get(name, ())))
    ],
    seeds=(0,),
    metrics=("valid", "exact"),
    settings=SETTINGS | {"choosing_rows": CHOOSING_ROWS},
    base=partial(load_base, device="cpu"),
    run=_run,
)
