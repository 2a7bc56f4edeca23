"""The failure clinic's base model and charts: `python benchmarks/clinic.py`. Chapter 06.

Teaches a very small Llama to write dates (half a minute), then trains an adapter on it nine times for each of three seeds: soundly, and
with each of eight faults planted (`lora_edu.course.clinic.runs`). About two CPU minutes in all. Stored after every run in
lora_edu/experiments/stored/clinic.safetensors; a run that is stored already under the same settings is not run again.
"""

import argparse
from typing import Any

from torch import Tensor

from lora_edu.adapters import fingerprint
from lora_edu.course.clinic.runs import FAULTS, NAME, SOUND, base_model, pretrain, run, settings
from lora_edu.errors import CheckpointError
from lora_edu.experiments import environment, store, stored

SEEDS = (0, 1, 2)


def begin() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The base model's weights, and what is to be known of them with the charts so far."""
    try:
        weights, about = stored(NAME)
        if {key: about.get(key) for key in settings()} == settings():
            return weights, about
        print("what is stored was made with other settings: starting anew")
    except CheckpointError:
        pass
    model = pretrain()
    weights = {name: tensor.half() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    about = {"command": f"python benchmarks/{NAME}.py", "fingerprint": "", "charts": [], **settings(), **environment()}
    store(NAME, weights, about)
    return weights, about | {"fingerprint": fingerprint(base_model())}  # of the weights as they were rounded


def main(limit: int | None) -> None:
    weights, about = begin()
    model = base_model()
    there = {(chart["seed"], chart["fault"]) for chart in about["charts"]}
    runs = [(seed, fault) for seed in SEEDS for fault in (SOUND, *FAULTS) if (seed, fault) not in there]
    for seed, fault in runs[:limit]:
        chart = run(model, fault, seed)
        about["charts"].append(chart._asdict())
        store(NAME, weights, about)
        held_out = chart.readings[-1]["held_out"]
        print(
            f"seed {seed}  {fault:22} loss {chart.losses[-1]:.3f}  held out {held_out:.3f}  {chart.sample}", flush=True
        )


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--limit", type=int, help="stop after so many runs; the next call goes on")
    main(arguments.parse_args().limit)
