"""What a training step costs with each variant, in time and memory: `OMP_NUM_THREADS=1 python benchmarks/variants.py`. Chapter 10.

The default model's first six layers, all-linear r = 8, 256 tokens, fp32. CPU seconds, all variants interleaved; each one's median ratio to
the limit (the frozen base's forward and its backward to the inputs, which every method pays), and the transient peak of memory above weights
and optimiser state. Stored in lora_edu/experiments/stored/variant_costs.safetensors. Two CPU minutes; `--rounds 1` is a rehearsal.
"""

import argparse
import copy

import torch
from common import interleaved, ratios, transient_peak
from step import make_step, on

from lora_edu.adapters import LoRAConfig, fingerprint, inject
from lora_edu.experiments import environment, store
from lora_edu.models import load_base
from lora_edu.training import TrainConfig
from lora_edu.training.optimizers import freeze_for

LAYERS, ROUNDS, BATCH, LENGTH, R = 6, 7, 2, 128, 8
METHODS = {
    "LoRA, as chapter 03 writes it": {},
    "LoRA, this module's fast path": {},
    "LoRA-FA": {},
    "DoRA": {"variant": "dora"},
    "PiSSA": {"variant": "pissa"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    base = load_base(device="cpu").model.train()
    whole = fingerprint(base)
    base.model.layers = base.model.layers[:LAYERS]
    ids = torch.randint(100, 40_000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    frozen = copy.deepcopy(base).requires_grad_(False)
    steps = {"limit": make_step(frozen, ids, "fp32", train_inputs=True)}
    trains = {"limit": 0}
    for name, changes in METHODS.items():
        model = inject(copy.deepcopy(base), LoRAConfig(r=R, lora_alpha=2 * R, **changes))
        if name == "LoRA-FA":
            freeze_for(model, TrainConfig(optimizer="lorafa"))
        trains[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        steps[name] = on("fast path" in name, make_step(model, ids, "fp32"))
    full = copy.deepcopy(base).requires_grad_(True)
    trains["full fine-tuning"] = sum(p.numel() for p in full.parameters())
    steps["full fine-tuning"] = make_step(full, ids, "fp32")
    table = ratios(interleaved(steps, options.rounds), "limit")
    peaks = {name: transient_peak(step) for name, step in steps.items()}
    for name, row in table.items():
        print(
            f"{name:<32} {row['seconds']:6.2f} s  {row['ratio']:.2f} ({row['ratio_min']:.2f}–{row['ratio_max']:.2f}) × the limit, "
            f"{peaks[name] / peaks['limit']:.2f} × its memory, {trains[name]:,} numbers train"
        )
    about = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/variants.py",
        "fingerprint": whole,
        "names": list(table),
        "layers": LAYERS,
        "tokens": BATCH * LENGTH,
        "r": R,
        "rounds": options.rounds,
        **environment(),
    }
    tensors = {
        "ratio": torch.tensor([row["ratio"] for row in table.values()]),
        "ratio_range": torch.tensor([[row["ratio_min"], row["ratio_max"]] for row in table.values()]),
        "memory": torch.tensor([peaks[name] / peaks["limit"] for name in table]),
        "trains": torch.tensor([trains[name] for name in table]),
    }
    if options.rounds >= ROUNDS:
        path = store("variant_costs", tensors, about)
        print(f"written: {path.name}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
