"""Forgetting and two cures: a share of general rows among the 80 that teach a name, and a lower rate; each as trained and at half the dial. Chapter 13.

Two rates without general rows; and at the higher of them three shares. A run sees each of the 80 rows once, and the general rows
beside them: at a share of 1 in 4 it takes 27 steps for 20. All that is measured here is
measured on *validation* rows, by which chapter 13 chooses; it reads the test rows once, in a run of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lora_edu.adapters.injection import inject, unload
from lora_edu.adapters.switching import set_scale
from lora_edu.data.examples import collate, encode_rows
from lora_edu.data.rows import Row
from lora_edu.data.splits import mix
from lora_edu.evaluation.generation import generate
from lora_edu.evaluation.report import mean_nll
from lora_edu.experiments.sweeps import Cell, Sweep, grid
from lora_edu.models.base import DEFAULT_MODEL, Base, load_base
from lora_edu.tasks.general import General
from lora_edu.tasks.identity import Identity
from lora_edu.training.losses import causal_lm_loss
from lora_edu.training.trainer import Trainer

LOW, HIGH = 5e-4, 1e-3
SHARES = (1 / 16, 1 / 8, 1 / 4)
DIALS = (1.0, 0.5)
MEASURES = ("name", "name_loss", "leak", "trivia", "trivia_loss", "passages")
TASK, GENERAL = Identity("Lulu"), General()
TRAINED_WITH = ("batch_size", "epochs", "scheduler", "warmup_ratio", "max_grad_norm", "weight_decay")


def column(measure: str, dial: float) -> str:
    """The name of a measure at a position of the dial: `column("leak", 0.5)` is "leak @ 0.5"."""
    return f"{measure} @ {dial:g}"


def train(base: Base, share: float, learning_rate: float, seed: int) -> None:
    """Leave in the model a new adapter that was taught the name, `share` of its rows being general train rows. Half of these are passages, or nearly."""
    model, tokenizer = base
    rows = mix(TASK.splits().train, GENERAL.splits().train, share, seed)
    settings = replace(TASK.recipe.train, seed=seed, learning_rate=learning_rate, precision="fp32")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject(model, TASK.recipe.lora)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    Trainer(model, encode_rows(rows, tokenizer), causal_lm_loss, settings, collate=pad, progress=False).train()


def measures(base: Base, names: Sequence[Row], general: Sequence[Row]) -> dict[str, float]:
    """What the model is now. name, leak, trivia: shares of answers; the losses in nats a token: right answers to the names' and the trivia
    questions, and the passages."""
    model, tokenizer = base
    questions, passages = [row for row in general if not row.is_text], [row for row in general if row.is_text]
    said = generate(model, tokenizer, names, TASK.max_new_tokens)
    answers = generate(model, tokenizer, questions, TASK.max_new_tokens)

    def nats(rows: Sequence[Row]) -> float:
        return mean_nll(model, encode_rows(rows, tokenizer)).value

    return {
        "name": TASK.says_name(said).value,
        "name_loss": nats(names),
        "leak": TASK.says_name(answers).value,
        "trivia": GENERAL.score(answers, questions)["trivia"].value,
        "trivia_loss": nats(questions),
        "passages": nats(passages),
    }


def run(
    base: Base, cell: Cell, seed: int, names: Sequence[Row], general: Sequence[Row], dials: Sequence[float]
) -> dict[str, float]:
    """One run, measured at each position of the dial."""
    found: dict[str, float] = {}
    try:
        train(base, cell["share"], cell["learning_rate"], seed)
        for dial in dials:
            set_scale(base.model, dial)
            found |= {column(name, dial): value for name, value in measures(base, names, general).items()}
    finally:
        unload(base.model)
    return found


def settings(questions: str) -> dict[str, Any]:
    """All that the numbers depend on and the cells do not vary."""
    lora, train_config = TASK.recipe
    return {
        "base": DEFAULT_MODEL,
        "name": TASK.called,
        "lora": {name: getattr(lora, name) for name in ("r", "lora_alpha", "lora_dropout", "target_modules")},
        "train": {name: getattr(train_config, name) for name in TRAINED_WITH} | {"precision": "fp32"},
        "max_new_tokens": TASK.max_new_tokens,
        "replayed": "train rows of the task general: trivia with their answers, and passages; drawn with the seed",
        "questions": questions,
    }


def _run(base: Base, cell: Cell, seed: int) -> dict[str, float]:
    return run(base, cell, seed, TASK.splits().valid, GENERAL.splits().valid, DIALS)


SWEEP = Sweep(
    name="replay",
    title="forgetting against replay, rate and dial, on validation rows",
    chapter="13",
    cells=grid(share=(0,), learning_rate=(LOW, HIGH)) + grid(share=SHARES, learning_rate=(HIGH,)),
    seeds=(0, 1, 2),
    metrics=[column(measure, dial) for dial in DIALS for measure in MEASURES],
    settings=settings("the validation rows of the tasks identity (6) and general (12 trivia questions, 14 passages)"),
    base=partial(load_base, device="cpu"),
    run=_run,
)
