"""The change that a short full fine-tuning makes to one weight matrix: `python benchmarks/full_finetuning_delta.py`. Chapters 01 and 02.

All parameters of the default model train for 40 steps on the King James task. Stored for the chapters, in
lora_edu/stored/full_finetuning_delta.safetensors: ΔW of the q_proj of layer 15 in fp16, the losses, how many directions hold 90 % of
ΔW's energy in every q_proj, and the base's fingerprint. One seed. About four CPU minutes; `--steps 3` is a rehearsal that stores nothing.
"""

import argparse
import time
from functools import partial

import torch
from common import environment

from lora_edu.checkpoint import fingerprint
from lora_edu.data import collate, encode_rows
from lora_edu.linalg import effective_rank
from lora_edu.losses import causal_lm_loss
from lora_edu.models import DEFAULT_MODEL, load_base
from lora_edu.stored import store
from lora_edu.tasks import get_task
from lora_edu.trainer import TrainConfig, Trainer

STEPS = 40
LAYER = "model.layers.15.self_attn.q_proj.weight"
VALID = 24  # rows on which the loss is measured before and after


def measure(steps: int) -> tuple[torch.Tensor, dict]:
    """ΔW of `LAYER` (576, 576) in fp32, and what is to be known of the run."""
    task = get_task("kjv")
    model, tokenizer = load_base(device="cpu")
    base = fingerprint(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("q_proj.weight")}
    settings = TrainConfig(learning_rate=1e-4, batch_size=4, max_steps=steps, warmup_ratio=0.05, precision="fp32")
    train, valid = (encode_rows(rows, tokenizer) for rows in (task.splits().train, task.splits().valid[:VALID]))
    model.requires_grad_(True)
    trainer = Trainer(
        model, train, causal_lm_loss, settings, eval_examples=valid, collate=partial(collate, pad_token_id=tokenizer.pad_token_id)
    )  # fmt: skip
    loss_before, cpu = trainer.evaluate(), time.process_time()
    history = trainer.train()
    after = dict(model.named_parameters())
    deltas = {name: after[name].detach() - W0 for name, W0 in before.items()}
    about = {
        "command": "python benchmarks/full_finetuning_delta.py",
        "base": DEFAULT_MODEL,
        "fingerprint": base,
        "task": task.name,
        "layer": LAYER,
        "trainable_parameters": sum(p.numel() for p in model.parameters()),
        "train": settings.to_dict(),
        "cpu_seconds": round(time.process_time() - cpu),
        "losses": [round(loss, 4) for loss in history.losses],
        "valid_rows": VALID,
        "valid_loss_before": round(loss_before, 4),
        "valid_loss_after": round(trainer.evaluate(), 4),
        "directions_for_90_percent": [effective_rank(torch.linalg.svdvals(delta)) for delta in deltas.values()],
        **environment(),
    }
    return deltas[LAYER], about


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=STEPS)
    options = arguments.parse_args()
    delta, about = measure(options.steps)
    print({key: value for key, value in about.items() if key not in ("train", "versions")})
    if options.steps == STEPS:
        path = store("full_finetuning_delta", {"delta": delta.to(torch.float16)}, about)
        print(f"written: {path.name}, {path.stat().st_size:,} bytes")
