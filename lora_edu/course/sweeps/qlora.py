"""QLoRA beside plain LoRA, each at its own learning rate: the same adapter trained on the base as shipped and on one in NF4. Chapter 11.

Both bases are the default model; the shipped weights were four bits before (Q4_1), so this says what NF4 costs *on top* of that, and
nothing of the first rounding. `valid` and `test` are losses a token of the answers, on rows that choose the rate and on rows that judge it;
`on_other` is the test loss of the same adapter beside the other base's weights: what merging into dense weights would give.
"""

import time
from functools import cache, partial
from typing import Any

import torch

from lora_edu.adapters.config import LoRAConfig
from lora_edu.adapters.finding import adapter_parameters
from lora_edu.adapters.injection import inject, unload
from lora_edu.data.examples import collate, encode_rows
from lora_edu.evaluation.report import mean_nll
from lora_edu.experiments.sweeps import Cell, Sweep
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.models.quantized.linear import Quantization
from lora_edu.tasks import get_task
from lora_edu.training.callbacks import Callback
from lora_edu.training.config import TrainConfig
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.trainer import Trainer

TASK, HELD_OUT = "kjv", 24  # dates are learnt to almost 0 in a few steps, and would tell no two bases apart
LORA = LoRAConfig(r=8, lora_alpha=16)
RATES = (1e-3, 3e-3, 1e-2)
TRAIN = TrainConfig(batch_size=4, max_steps=32, warmup_steps=2, precision="fp32")
EARLY = 3  # the training loss of this step is kept, for a page that runs so many again
DENSE, NF4 = "as shipped", "NF4"


@cache
def in_four_bits() -> Base:
    """The default model with its linear layers in NF4, double quantisation."""
    return load_base(device="cpu", bits=4)


class StopAfter(Callback):
    """Ends a run after its first few steps, which are those of the whole run."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, trainer: Any, record: Any) -> None:
        if trainer.step >= self.steps:
            trainer.stop(f"after {self.steps} steps, as asked")


def trained(base: Base, rate: float, seed: int, steps: int = TRAIN.max_steps or 0) -> Trainer:
    """A trainer that has trained an adapter on `base` at `rate`, for the first `steps` of the run. `unload` takes the adapter out again."""
    model, tokenizer = base
    settings = TrainConfig(**(TRAIN.to_dict() | {"learning_rate": rate, "seed": seed}))
    rows = encode_rows(get_task(TASK).splits().train, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject(model, LORA)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    trainer = Trainer(model, rows, causal_lm_loss, settings, collate=pad, progress=False, callbacks=[StopAfter(steps)])
    trainer.train()
    return trainer


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    own, other = (base, in_four_bits()) if cell["base"] == DENSE else (in_four_bits(), base)
    rows = get_task(TASK).splits()
    valid, test = (encode_rows(part[:HELD_OUT], base.tokenizer) for part in (rows.valid, rows.test))
    began = time.process_time()
    try:
        history = trained(own, cell["learning_rate"], seed).history
        seconds = (time.process_time() - began) / len(history.losses)
        found = {"valid": _loss(own, valid), "test": _loss(own, test)}
        inject(other.model, LORA)
        kept: dict[str, Any] = dict(adapter_parameters(own.model))
        with torch.no_grad():
            for name, factor in adapter_parameters(other.model).items():
                factor.copy_(kept[name])
        return found | {
            "on_other": _loss(other, test),
            f"loss_{EARLY}": history.losses[EARLY - 1],
            "seconds_a_step": seconds,
        }
    finally:
        for each in (own, other):
            unload(each.model)


def _loss(base: Base, examples: Any) -> float:
    return mean_nll(base.model, examples).value


SWEEP = Sweep(
    name="qlora",
    title="QLoRA beside plain LoRA, each at its own learning rate: loss on verses, and of the same adapter on the other base",
    chapter="11",
    cells=[{"base": base, "learning_rate": rate} for base in (DENSE, NF4) for rate in RATES],
    seeds=(0, 1, 2),
    metrics=("valid", "test", "on_other", f"loss_{EARLY}", "seconds_a_step"),
    settings={
        "base": DEFAULT_MODEL,
        "four bits": Quantization().to_json(),
        "task": TASK,
        "lora": LORA.to_dict(),
        "train": {key: value for key, value in TRAIN.to_dict().items() if key != "learning_rate"},
        "rows that choose, rows that judge": HELD_OUT,
    },
    base=partial(load_base, device="cpu"),
    run=_run,
)
