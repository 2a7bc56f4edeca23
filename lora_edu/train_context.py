"""What a run changes around itself and gives back at its end: modes, gradient checkpointing, random generators, threads, Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lora_edu.errors import TrainingError
from lora_edu.losses import unwrap
from lora_edu.train_state import capture_rng, restore_rng


@contextlib.contextmanager
def modes(model: nn.Module, training: bool) -> Iterator[None]:
    """Puts the model in training or evaluation mode and gives every module its own mode back."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


@contextlib.contextmanager
def checkpointing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing for the length of a run: activations are recomputed in the backward pass instead of kept.

    The non-reentrant kind, because the older one gives adapters no gradient when the block's input needs none.
    """
    if not wanted:
        yield
        return
    inner: Any = unwrap(model)
    kind = "activation" if hasattr(inner, "activation_checkpointing_enable") else "gradient"  # transformers renames it
    if not hasattr(inner, f"{kind}_checkpointing_enable"):
        raise TrainingError(f"{type(inner).__name__} has no gradient checkpointing: set gradient_checkpointing=False.")
    getattr(inner, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(inner, f"{kind}_checkpointing_disable")()
        if hasattr(inner, "disable_input_require_grads"):
            inner.disable_input_require_grads()  # switched on along with checkpointing, but not off with it


@contextlib.contextmanager
def own_rng() -> Iterator[None]:
    """Whatever happens to the random generators inside, outside they go on as if nothing had."""
    outside = capture_rng()
    try:
        yield
    finally:
        restore_rng(outside)


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Runs torch's CPU kernels on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def interrupt_asked() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a flag, so that a run stops between two steps and never inside one; the second acts at once.

    So does SIGTERM, by which launchers and batch systems ask a process to end.

    Only the main thread receives signals; elsewhere the flag stays down.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handler(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, old in before.items():
            fallback = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, fallback if old is None else old)  # None: one that was not set from Python
