"""Singular values of W₀ and of ΔW for all 210 matrices: `python benchmarks/full_finetuning_spectra.py`. Chapter 02.

The run of `full_finetuning_delta.py`, made with three seeds (the seed draws the order of the rows). Stored for the chapter, in
lora_edu/experiments/stored/full_finetuning_spectra.safetensors, a layer a row: `W0.q_proj` (30, 576), the singular values of the weights, and
`delta.q_proj` (30, 576), those of the change with seed 0. Of every seed two numbers a matrix: `count.0.q_proj` (30,), how many directions hold
90 % of the energy of ΔW, and `size.0.q_proj` (30,) = ‖ΔW‖ / ‖W₀‖. About five CPU minutes a seed. Stored after each seed: stop it and run it
again, and it goes on with the seed that is missing. `--steps 3` is a rehearsal that stores nothing.
"""

import argparse

import torch
from full_finetuning_delta import STEPS, fine_tune
from torch import Tensor

from lora_edu.errors import CheckpointError
from lora_edu.experiments import store, stored
from lora_edu.linalg import effective_rank

NAME = "full_finetuning_spectra"
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SEEDS = (0, 1, 2)


def by_kind(matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    """Singular values, a layer a row: kind → (layers, min(out, in))."""
    return {
        kind: torch.stack([torch.linalg.svdvals(M) for name, M in matrices.items() if kind in name]) for kind in KINDS
    }


def measure(seed: int, steps: int, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict]:
    """What one seed adds to the stored tensors, and what is to be known of its run."""
    run = fine_tune(steps, "_proj.weight", seed)
    new = {} if "W0.q_proj" in tensors else {f"W0.{kind}": S for kind, S in by_kind(run.W0).items()}
    for kind, S in by_kind(run.delta).items():
        if seed == SEEDS[0]:
            new[f"delta.{kind}"] = S
        new[f"count.{seed}.{kind}"] = torch.tensor([effective_rank(row) for row in S])
        new[f"size.{seed}.{kind}"] = S.norm(dim=1) / (tensors | new)[f"W0.{kind}"].norm(dim=1)
    return new, run.about


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=STEPS)
    options = arguments.parse_args()
    try:
        tensors, about = stored(NAME)
    except CheckpointError:
        tensors, about = {}, {}
    for seed in SEEDS if options.steps == STEPS else SEEDS[:1]:
        if f"count.{seed}.q_proj" in tensors:
            print(f"seed {seed}: stored already")
            continue
        new, run = measure(seed, options.steps, tensors)
        tensors |= new
        losses = {
            "losses": run["losses"],
            "valid_before": run["valid_loss_before"],
            "valid_after": run["valid_loss_after"],
        }
        runs = [*about.get("runs", []), {"seed": seed, **losses}]
        about = run | {"command": f"python benchmarks/{NAME}.py", "runs": runs}
        for kind in KINDS:
            count, size = new[f"count.{seed}.{kind}"], new[f"size.{seed}.{kind}"]
            print(
                f"seed {seed} {kind:>9}: {int(count.min())} to {int(count.max())} directions, change {size.min():.2%} to {size.max():.2%}"
            )
        if options.steps == STEPS:
            path = store(NAME, tensors, about)
            print(f"written: {path.name}, {path.stat().st_size:,} bytes", flush=True)
