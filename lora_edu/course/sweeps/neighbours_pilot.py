"""LoRA and its neighbours, which learning rate for which: the first of two stages. Chapter 12.

Seven ways to fine-tune the language model, five of them with 57,600 trainable numbers or fewer, train for as many steps on as many rows of one
task. Each has its own row of learning rates, because a factor, a vector in front and a whole weight do not want the same; one seed. The loss on
validation rows chooses; `neighbours` then compares, with other seeds and on test rows. A rate is added where the best one lies at an edge.
`general` is the loss on plain prose: what the run has done to everything else.
"""

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.neighbours.attaching import attach
from lora_edu.adapters.neighbours.bottleneck import Bottleneck
from lora_edu.adapters.neighbours.ia3 import IA3
from lora_edu.adapters.neighbours.in_place import FullFineTuning
from lora_edu.adapters.neighbours.prefix import PrefixTuning
from lora_edu.adapters.neighbours.prompt import PromptTuning
from lora_edu.course.sweeps.places_pilot import loss_and_exact
from lora_edu.data.examples import collate, encode_rows
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.tasks import get_task
from lora_edu.training.config import TrainConfig
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.trainer import Trainer

METHODS: dict[str, Any] = {  # the first three rows have 57,600 numbers each, the next two fewer
    "LoRA, r = 1, q and v": LoRAConfig(r=1, lora_alpha=2, target_modules=("q_proj", "v_proj")),
    "IA³": IA3(),
    "prefix, 5 tokens": PrefixTuning(num_virtual_tokens=5),
    "bottleneck, m = 1": Bottleneck(m=1, place="pfeiffer"),
    "prompt, 20 tokens": PromptTuning(num_virtual_tokens=20),
    "LoRA, r = 8, all-linear": LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    "full fine-tuning": FullFineTuning(),
}
RATES = {  # half a decade apart; a fourth where the best of three lay at an edge
    "LoRA, r = 1, q and v": (3e-3, 1e-2, 3e-2, 1e-1),
    "IA³": (1e-2, 3e-2, 1e-1, 3e-1),
    "prefix, 5 tokens": (1e-2, 3e-2, 1e-1, 3e-1),
    "bottleneck, m = 1": (3e-3, 1e-2, 3e-2),
    "prompt, 20 tokens": (1e-2, 3e-2, 1e-1),
    "LoRA, r = 8, all-linear": (1e-3, 3e-3, 1e-2),
    "full fine-tuning": (1e-4, 3e-4, 1e-3),
}
TASK, CHOOSING_ROWS, PROSE = "intents", 32, 6  # rows of the validation split, and passages of plain prose
TRAIN = TrainConfig(batch_size=4, max_steps=16, warmup_steps=2, precision="fp32")


def trained(base: Base, method: Any, rate: float, seed: int) -> nn.Module:
    """A copy of the base that `method` has fine-tuned; the seed draws what it begins with and the order of the rows."""
    model, tokenizer = base
    rows = encode_rows(get_task(TASK).splits().train, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        copied = attach(copy.deepcopy(model), method)
        settings = TrainConfig(**TRAIN.to_dict() | {"learning_rate": rate, "seed": seed})
        pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
        Trainer(copied, rows, causal_lm_loss, settings, progress=False, collate=pad).train()
    return copied


def judged(base: Base, name: str | None, rate: float, seed: int, part: str, rows: int) -> tuple[float, float, float]:
    """On a part of the split: nats an answer token, the share of rows answered exactly, and nats a token of prose. None: the base as it is."""
    tokenizer, pad = base.tokenizer, base.tokenizer.pad_token_id
    held_out = encode_rows(getattr(get_task(TASK).splits(), part)[:rows], tokenizer)
    prose = [row for row in getattr(get_task("general").splits(), part) if row.is_text][:PROSE]
    model = base.model if name is None else trained(base, METHODS[name], rate, seed)
    return *loss_and_exact(model, held_out, pad), loss_and_exact(model, encode_rows(prose, tokenizer), pad)[0]


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    loss, exact, general = judged(base, cell["method"], cell["learning_rate"], seed, "valid", CHOOSING_ROWS)
    return {"valid": loss, "exact": exact, "general": general}


SETTINGS = {
    "base": DEFAULT_MODEL,
    "task": TASK,
    "train": {key: value for key, value in TRAIN.to_dict().items() if key != "learning_rate"},
    "prose": PROSE,
}
SWEEP = Sweep(
    name="neighbours_pilot",
    title="LoRA and its neighbours, each at a row of learning rates of its own, one seed; validation loss on intents",
    chapter="12",
    cells=[{"method": name, "learning_rate": rate} for name, rates in RATES.items() for rate in rates],
    seeds=(0,),
    metrics=("valid", "exact", "general"),
    settings=SETTINGS | {"choosing_rows": CHOOSING_ROWS},
    base=partial(load_base, device="cpu"),
    run=_run,
)
