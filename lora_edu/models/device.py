"""What is fastest on this machine: the device, fp32 or bf16, one thread or all. Measured once a process, not assumed.

`lora-edu doctor` prints the timings, the trainer uses the choice. Chapter 05.
"""

import functools
import time
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

Precision = Literal["fp32", "bf16"]
# Below this gain fp32 (exact) and all threads (the default) stay: a busy machine's noise decides nothing.
CLEARLY_FASTER = 1.15
ENOUGH = 1.0  # seconds: a step that takes so long is timed once


@dataclass(frozen=True)
class Settings:
    """The choice and its evidence: `timings` holds milliseconds a probe step, keyed (precision, threads)."""

    device: str
    precision: Precision
    threads: int
    timings: dict[tuple[str, int], float]


def default_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def probe_step(device: torch.device, precision: Precision, tokens: int = 256) -> float:
    """Seconds of one forward and backward to the input through a frozen gated MLP of the default model's shape (576 → 1536).

    That is the shape of LoRA's work: large frozen fp32 matrices, whose cast to bf16 is part of what autocast costs.
    """
    generator = torch.Generator().manual_seed(0)
    gate, up, down = (
        torch.randn(shape, generator=generator).mul_(0.02).to(device)
        for shape in ((1536, 576), (1536, 576), (576, 1536))
    )
    x = torch.randn(tokens, 576, generator=generator).to(device).requires_grad_()
    _synchronize(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        y = x
        for _ in range(2):
            y = y + F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
    y.float().square().sum().backward()
    _synchronize(device)
    return time.perf_counter() - start


def _timing(device: torch.device, precision: Precision, threads: int, rounds: int = 5) -> float:
    """The best of a few rounds, in milliseconds: the minimum is what the machine can do, the rest is its other work.

    Where one round takes longer than all of them should (bf16 on a CPU without arithmetic for it), it is left at that.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best = probe_step(device, precision)  # the first call allocates and picks kernels
        if best < ENOUGH:
            best = min(probe_step(device, precision) for _ in range(rounds))
        return 1000 * best
    except RuntimeError:  # no bf16 kernels on this device
        return float("inf")
    finally:
        torch.set_num_threads(before)


@functools.cache
def fastest_settings() -> Settings:
    """Times fp32 against bf16 autocast, and on a CPU one thread against all, in about a second; cached for the process.

    `OMP_NUM_THREADS` (what `torch.get_num_threads()` starts from) is the upper bound: "all" never exceeds what the user allowed.
    """
    device = default_device()
    everyone = torch.get_num_threads()
    counts = [everyone] if device.type != "cpu" or everyone == 1 else [everyone, 1]
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    timings: dict[tuple[str, int], float] = {
        (precision, n): _timing(device, precision, n) for n in counts for precision in precisions
    }
    threads = everyone
    if 1 in counts and timings["fp32", everyone] > CLEARLY_FASTER * timings["fp32", 1]:
        threads = 1
    bf16 = timings["fp32", threads] > CLEARLY_FASTER * timings["bf16", threads]
    return Settings(str(device), "bf16" if bf16 else "fp32", threads, timings)
