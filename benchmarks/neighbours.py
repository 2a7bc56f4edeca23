"""What each way to fine-tune costs, in time, memory and bytes: `OMP_NUM_THREADS=1 python benchmarks/neighbours.py`. Chapter 12.

A training step: the default model's first six layers, 4 rows of 30 tokens (as long as an intent), fp32. CPU seconds, all methods interleaved; each
one's median ratio to the limit (the frozen base's forward and its backward to the inputs), and the transient peak of memory above weights and
optimiser state. A question: the forward pass of one such row, before and after `merge`, as a ratio to the base's. The file: the whole model's, as
`save` writes it. Stored in lora_edu/experiments/stored/neighbour_costs.safetensors. Three CPU minutes; `--rounds 1` is a rehearsal.
"""

import argparse
import copy
import math
import tempfile
from pathlib import Path

import torch
from common import interleaved, ratios, transient_peak
from step import make_step

from lora_edu.adapters import Bottleneck, PromptTuning, attach, audit, fingerprint, merge, save
from lora_edu.course.sweeps.neighbours_pilot import METHODS
from lora_edu.errors import LoRAEduError
from lora_edu.experiments import environment, store
from lora_edu.models import load_base

LAYERS, ROUNDS, BATCH, LENGTH, LIMIT, BASE = 6, 7, 4, 30, "limit", "the base"
EVERY = METHODS | {
    "prompt, 100 tokens": PromptTuning(num_virtual_tokens=100),
    "bottleneck, m = 35, twice": Bottleneck(m=35),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    base = load_base(device="cpu").model.train()
    whole, files, numbers = fingerprint(base), {}, {}
    for name, method in EVERY.items():
        model = attach(copy.deepcopy(base), method)
        numbers[name] = audit(model).trainable
        with tempfile.TemporaryDirectory() as folder:
            files[name] = sum(path.stat().st_size for path in Path(save(model, folder)).glob("*.safetensors"))
        del model
    base.model.layers = base.model.layers[:LAYERS]
    base.config.num_hidden_layers = LAYERS
    ids = torch.randint(100, 40_000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    steps = {LIMIT: make_step(copy.deepcopy(base).requires_grad_(False), ids, "fp32", train_inputs=True)}
    for name, method in EVERY.items():
        steps[name] = make_step(attach(copy.deepcopy(base), method), ids, "fp32")
    step = ratios(interleaved(steps, options.rounds), LIMIT)
    peaks = {name: transient_peak(each) for name, each in steps.items()}
    del steps
    asked, merged = {BASE: question(copy.deepcopy(base), ids)}, {BASE: question(copy.deepcopy(base), ids)}
    for name, method in EVERY.items():
        asked[name] = question(attach(copy.deepcopy(base), method), ids)
        model = attach(copy.deepcopy(base), method)
        try:
            merge(model)
            merged[name] = question(model, ids)
        except LoRAEduError:  # nothing to merge
            continue
    before, after = (ratios(interleaved(each, 3 * options.rounds), BASE) for each in (asked, merged))
    for name in EVERY:
        said = f"{after[name]['ratio']:.2f}" if name in after else "none"
        print(
            f"{name:<26} step {step[name]['ratio']:.2f} × the limit, memory {peaks[name] / peaks[LIMIT]:.2f}, "
            f"question {before[name]['ratio']:.2f} × the base's, merged {said}, {numbers[name]:,} numbers, {files[name]:,} bytes"
        )
    about = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/neighbours.py",
        "fingerprint": whole,
        "names": list(EVERY),
        "layers": LAYERS,
        "rows": BATCH,
        "tokens a row": LENGTH,
        "rounds": options.rounds,
        **environment(),
    }
    none = {"ratio": math.nan, "ratio_min": math.nan, "ratio_max": math.nan}
    tensors = {
        "step": spread(step[name] for name in EVERY),
        "memory": torch.tensor([peaks[name] / peaks[LIMIT] for name in EVERY]),
        "question": spread(before[name] for name in EVERY),
        "merged": spread(after.get(name, none) for name in EVERY),
        "numbers": torch.tensor([numbers[name] for name in EVERY]),
        "file": torch.tensor([files[name] for name in EVERY]),
    }
    if options.rounds >= ROUNDS:
        path = store("neighbour_costs", tensors, about)
        print(f"written: {path.name}, {path.stat().st_size:,} bytes")


def question(model, ids):
    """The forward pass of one row, as a function."""
    model.eval()

    @torch.no_grad()
    def ask():
        model(input_ids=ids[:1], use_cache=False)

    return ask


def spread(rows):
    """(methods, 3): median, least and greatest ratio."""
    return torch.tensor([[row["ratio"], row["ratio_min"], row["ratio_max"]] for row in rows])


if __name__ == "__main__":
    main()
