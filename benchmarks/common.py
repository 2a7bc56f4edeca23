"""What every benchmark shares: interleaved rounds in CPU time, the transient memory peak, and a stored result that says where it came from."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lora_edu.experiments import environment

RESULTS = Path(__file__).parent / "results"


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """CPU seconds of each variant in each round. All variants run once a round, the order turning from round to round.

    On a shared machine absolute times drift; within one round they drift together, so ratios round by round hold.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.process_time()
            variants[name]()
            if number >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], to: str) -> dict[str, dict[str, float]]:
    """Median seconds of each variant, and the median, least and greatest of its ratios to `to`, round by round."""
    table = {}
    for name, own in seconds.items():
        each = [a / b for a, b in zip(own, seconds[to])]
        table[name] = {
            "seconds": statistics.median(own),
            "ratio": statistics.median(each),
            "ratio_min": min(each),
            "ratio_max": max(each),
        }
    return table


def transient_peak(step: Callable[[], Any]) -> int:
    """Bytes that one step needs above what was there when it began: the highest sum of its allocations on the CPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def write(name: str, result: Mapping[str, Any]) -> Path:
    """Store `result` as benchmarks/results/<name>.json with the environment and the command that remakes it."""
    RESULTS.mkdir(exist_ok=True)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"command": command, **environment(), **result}, indent=1) + "\n", encoding="utf-8")
    print(f"written to benchmarks/results/{path.name}")
    return path
