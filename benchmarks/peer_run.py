"""A whole run beside transformers' Trainer with PEFT: the same rows in the same order, steps, schedule and optimiser; CPU time, memory, loss.

    OMP_NUM_THREADS=1 python benchmarks/peer_run.py            # 3 rounds of each variant
    OMP_NUM_THREADS=1 python benchmarks/peer_run.py --precision fp32      # on a CPU without bf16 of its own

Every run is a process of its own, and the variants take turns. CPU seconds are those of the training call, memory the process's peak
while it trains (Linux keeps it), the loss that of held-out rows, measured alike for all, in fp32, after the run. Both sides mask the prompt, pad
to the longest row of a batch and take the mean over a batch's answer tokens. The peer runs in fp32 and under its own bf16 autocast.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from common import write

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.data import collate, encode_rows
from lora_edu.evaluation import mean_nll
from lora_edu.models import load_base
from lora_edu.tasks import get_task
from lora_edu.training import TrainConfig, Trainer, causal_lm_loss, step_rows

ROWS, HELD_OUT, BATCH = 640, 100, 8
LORA = dict(r=8, lora_alpha=16)
VARIANTS = {  # (side, precision, type of the base's weights)
    "peer fp32": ("peer", "fp32", torch.float32),
    "peer bf16": ("peer", "bf16", torch.float32),
    "ours fp32": ("ours", "fp32", torch.float32),
    "ours bf16": ("ours", "bf16", torch.float32),
    "ours bf16, base in bf16": ("ours", "bf16", torch.bfloat16),
}


def ours(model, examples, pad, steps, precision):
    inject(model, LoRAConfig(**LORA))
    config = TrainConfig(learning_rate=1e-3, batch_size=BATCH, max_steps=steps, precision=precision)
    trainer = Trainer(model, examples, causal_lm_loss, config, collate=pad, progress=False)
    return trainer.train, model


def peer(model, examples, pad, steps, precision, folder):
    """The Trainer's defaults but for what the task sets: ours makes no difference that it has not a setting for."""
    import peft
    from torch.utils.data import SequentialSampler
    from transformers import Trainer as Peer
    from transformers import TrainingArguments

    class InOrder(Peer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

    order = [
        row
        for step in range(steps)
        for rows in step_rows(len(examples), step, TrainConfig(batch_size=BATCH))
        for row in rows
    ]
    model = peft.get_peft_model(model, peft.LoraConfig(**LORA, target_modules="all-linear", task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3, lr_scheduler_type="cosine",
        max_grad_norm=1.0, weight_decay=0.0, bf16=precision == "bf16", use_cpu=True, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = InOrder(model, arguments, data_collator=pad, train_dataset=[examples[row] for row in order])
    return trainer.train, model


def peak(reset: bool = False) -> int:
    """Bytes at the process's peak since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def one(name: str, steps: int, folder: str) -> None:
    side, precision, dtype = VARIANTS[name]
    task = get_task("kjv")
    model, tokenizer = load_base(dtype=dtype)
    examples = encode_rows(task.splits().train[:ROWS], tokenizer)
    held_out = encode_rows(task.splits().valid[:HELD_OUT], tokenizer)
    pad = partial(collate, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(0)
    begin = (
        partial(ours, model, examples, pad, steps, precision)
        if side == "ours"
        else partial(peer, model, examples, pad, steps, precision, folder)
    )
    train, trained = begin()
    peak(reset=True)
    start = time.process_time()
    train()
    result = {"cpu_seconds": time.process_time() - start, "peak_bytes": peak()}
    trained.float()
    result["held_out_loss"] = mean_nll(trained, held_out).value
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=("fp32", "bf16"))
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one, options.steps, options.folder)
    import tempfile

    names = [name for name, (_, precision, _) in VARIANTS.items() if precision in options.precision]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                command = [sys.executable, __file__, "--one", name, "--steps", str(options.steps), "--folder", folder]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                runs[name].append(json.loads(said.splitlines()[-1]))
                print(number, name, runs[name][-1], flush=True)
    peers = [name for name in names if name.startswith("peer")]
    best = min(peers, key=lambda name: statistics.median(run["cpu_seconds"] for run in runs[name]))
    table = {}
    print(f"\n× the faster peer, {best}   CPU s  ×peer  peak MB  ×peer  held-out loss")
    for name, own in runs.items():
        time_ratio, peak_ratio = (
            statistics.median(a[key] / b[key] for a, b in zip(own, runs[best])) for key in ("cpu_seconds", "peak_bytes")
        )
        row = {key: statistics.median(run[key] for run in own) for key in own[0]} | {
            "time_ratio": time_ratio,
            "peak_ratio": peak_ratio,
        }
        table[name] = row
        print(
            f"{name:<28}{row['cpu_seconds']:9.1f}{time_ratio:7.2f}{row['peak_bytes'] / 1e6:9.0f}{peak_ratio:7.2f}{row['held_out_loss']:12.4f}"
        )
    write(
        "peer_run",
        {"peer": best, "rows": ROWS, "steps": options.steps, "batch_size": BATCH, "runs": runs, "table": table},
    )


if __name__ == "__main__":
    main()
