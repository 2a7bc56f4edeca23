"""The change that a short full fine-tuning makes to one weight matrix: `python benchmarks/full_finetuning_delta.py`. Chapter 01.

All parameters of the default model train for 40 steps on the King James task. Stored for the chapter, in
lora_edu/experiments/stored/full_finetuning_delta.safetensors: ΔW of the q_proj of layer 15 in fp16, the losses, how many directions hold 90 % of
ΔW's energy in every q_proj, and the base's fingerprint. One seed. About four CPU minutes; `--steps 3` is a rehearsal that stores nothing.
`full_finetuning_spectra.py` makes the same run with three seeds and looks at all matrices.
"""

import argparse
import time
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lora_edu.adapters import fingerprint
from lora_edu.data import collate, encode_rows
from lora_edu.experiments import environment, store
from lora_edu.linalg import effective_rank
from lora_edu.models import DEFAULT_MODEL, load_base
from lora_edu.tasks import get_task
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss

STEPS = 40
LAYER = "model.layers.15.self_attn.q_proj.weight"
VALID = 24  # rows on which the loss is measured before and after


class Run(NamedTuple):
    """One fine-tuning: W₀ and ΔW by name, fp32 (out, in), of the matrices asked for, what is to be known of the run, and its model."""

    W0: dict[str, Tensor]
    delta: dict[str, Tensor]
    about: dict
    model: nn.Module


def fine_tune(steps: int, wanted: str, seed: int = 0) -> Run:
    """Train all parameters; keep the matrices whose name ends with `wanted`."""
    task = get_task("kjv")
    model, tokenizer = load_base(device="cpu")
    base = fingerprint(model)
    W0 = {name: p.detach().clone() for name, p in model.named_parameters() if p.ndim == 2 and name.endswith(wanted)}
    settings = TrainConfig(
        learning_rate=1e-4, batch_size=4, max_steps=steps, warmup_ratio=0.05, precision="fp32", seed=seed
    )
    train, valid = (encode_rows(rows, tokenizer) for rows in (task.splits().train, task.splits().valid[:VALID]))
    model.requires_grad_(True)
    trainer = Trainer(
        model, train, causal_lm_loss, settings, eval_examples=valid, collate=partial(collate, pad_token_id=tokenizer.pad_token_id)
    )  # fmt: skip
    loss_before, cpu = trainer.evaluate(), time.process_time()
    history = trainer.train()
    after = dict(model.named_parameters())
    about = {
        "base": DEFAULT_MODEL,
        "fingerprint": base,
        "task": task.name,
        "trainable_parameters": sum(p.numel() for p in model.parameters()),
        "train": settings.to_dict(),
        "cpu_seconds": round(time.process_time() - cpu),
        "losses": [round(loss, 4) for loss in history.losses],
        "valid_rows": VALID,
        "valid_loss_before": round(loss_before, 4),
        "valid_loss_after": round(trainer.evaluate(), 4),
        **environment(),
    }
    return Run(W0, {name: after[name].detach() - before for name, before in W0.items()}, about, model)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=STEPS)
    options = arguments.parse_args()
    run = fine_tune(options.steps, "q_proj.weight")
    counts = [effective_rank(torch.linalg.svdvals(delta)) for delta in run.delta.values()]
    about = run.about | {
        "command": "python benchmarks/full_finetuning_delta.py",
        "layer": LAYER,
        "directions_for_90_percent": counts,
    }
    print({key: value for key, value in about.items() if key not in ("train", "versions")})
    if options.steps == STEPS:
        path = store("full_finetuning_delta", {"delta": run.delta[LAYER].to(torch.float16)}, about)
        print(f"written: {path.name}, {path.stat().st_size:,} bytes")
