"""An adapter out of a fully fine-tuned model, at several ranks: `python benchmarks/extracted.py`. Chapter 07.

The fine-tuning of `full_finetuning_delta.py` (all parameters, 40 steps of the King James task, one seed), written to a folder as a whole
model, and what `extract` takes out of it and the base: all-linear, at rank 128, then cut by `resize` to the smaller ones (the cuts of one
SVD lie in one another, so a cut of a cut is the cut). For each rank the share of the energy that it holds and the loss on the task's first
24 validation rows. Stored in lora_edu/experiments/stored/extracted.safetensors. About twelve CPU minutes.

    python benchmarks/extracted.py --keep runs/tuned     keeps the model's folder, for `lora-edu extract runs/tuned --rank 16 --out runs/taken`
    python benchmarks/extracted.py --steps 2             a rehearsal that stores nothing
"""

import argparse
import tempfile
from pathlib import Path

import torch
from full_finetuning_delta import STEPS, VALID, fine_tune

from lora_edu.adapters import extract, resize, unload
from lora_edu.data import encode_rows
from lora_edu.evaluation import mean_nll
from lora_edu.experiments import store
from lora_edu.models import load_base
from lora_edu.tasks import get_task

RANKS = (128, 32, 8, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--keep", type=Path, help="a new folder for the fine-tuned model (540 MB)")
    options = parser.parse_args()
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} is there already: name a folder that is not")
    run = fine_tune(options.steps, "no matrix is kept")
    base, tokenizer = load_base(device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch) / "tuned"
        run.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        tuned = load_base(str(folder), device="cpu").model  # from the folder: as somebody else would get it
    rows = encode_rows(get_task("kjv").splits().valid[:VALID], tokenizer)
    losses = {"base": mean_nll(base, rows).value, "tuned": mean_nll(tuned, rows).value}
    found = {"rank": [], "energy": [], "loss": []}
    report = extract(base, tuned, rank=RANKS[0])
    print(report, losses, flush=True)
    held = report.energy
    for rank in RANKS:
        share = held if rank == RANKS[0] else held * resize(base, rank=rank).energy
        held = share
        for key, value in (("rank", rank), ("energy", share), ("loss", mean_nll(base, rows).value)):
            found[key].append(value)
        print({key: each[-1] for key, each in found.items()}, flush=True)
    unload(base)
    about = run.about | {
        "command": "python benchmarks/extracted.py",
        "losses_of_the_two_models": losses,
        "left_out": {name: report.left_out[name] for name in sorted(report.left_out, key=report.left_out.get)[-4:]},
        "tensors_left_out": len(report.left_out),
    }
    if options.steps == STEPS:
        path = store("extracted", {key: torch.tensor(each) for key, each in found.items()}, about)
        print(f"written: {path.name}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
