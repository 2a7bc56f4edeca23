"""The failure clinic's base model and charts: `python benchmarks/clinic.py`. Chapter 06.

Teaches a very small Llama to write dates (half a minute), then trains an adapter on it nine times for each of three seeds: soundly, and
with each of eight faults planted (`lora_edu.course.clinic.runs`). About two CPU minutes in all. Stored after every run in
lora_edu/experiments/stored/clinic.safetensors; a run that is stored already under the same settings is not run again.

`--fresh N` asks instead how often the leak's sign fails: a sound and a leaking run of each of N seeds that chose nothing in the
chapter (100, 101 …), about seven seconds a seed. Stored as benchmarks/results/clinic_fresh.json.
"""

import argparse
import math
from typing import Any

from common import write
from torch import Tensor

from lora_edu.adapters import fingerprint
from lora_edu.course.clinic.runs import ANSWER, CLERKS, FAULTS, NAME, SOUND, base_model, pretrain, run, settings
from lora_edu.errors import CheckpointError
from lora_edu.experiments import environment, store, stored

SEEDS = (0, 1, 2)


def begin() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The base model's weights, and what is to be known of them with the charts so far."""
    try:
        weights, about = stored(NAME)
        now = settings() | {"fingerprint": fingerprint(base_model())}  # charts hold it too, and it may be worked out otherwise now
        if {key: about.get(key) for key in now} == now:
            return weights, about
        print("what is stored was made with other settings: the charts are made anew, on the same base model")
        return weights, about | {"charts": [], **now, **environment()}
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


def fresh(count: int) -> None:
    model, floor = base_model(), math.log(len(CLERKS)) / ANSWER
    runs = []
    for seed in range(100, 100 + count):
        held_out = {fault: run(model, fault, seed).readings[-1]["held_out"] for fault in (SOUND, "leaking split")}
        runs.append({"seed": seed, "sound": round(held_out[SOUND], 4), "leaking": round(held_out["leaking split"], 4)})
        print(runs[-1], flush=True)
    write("clinic_fresh", {"floor": floor, "fingerprint": fingerprint(model), **settings(), "runs": runs})


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--limit", type=int, help="stop after so many runs; the next call goes on")
    arguments.add_argument("--fresh", type=int, help="a sound and a leaking run of so many other seeds")
    options = arguments.parse_args()
    if options.fresh:
        fresh(options.fresh)
    else:
        main(options.limit)
