"""What a run changes around itself and gives back at its end: modes, gradient checkpointing, random generators, threads, Ctrl-C."""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from lora_edu.models.device import Precision, fastest_settings
from lora_edu.models.modules import checkpointing, modes
from lora_edu.training.checkpoints import capture_rng, restore_rng
from lora_edu.training.processes import of_the_first

if TYPE_CHECKING:
    from lora_edu.training.trainer import Trainer


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


@contextlib.contextmanager
def run_context(trainer: "Trainer") -> Iterator[threading.Event]:
    """What a run changes around it and gives back; yields the flag that Ctrl-C raises."""
    with (
        own_rng(),
        num_threads(trainer.threads),
        modes(trainer.model, training=True),
        checkpointing(trainer.model, trainer.config.gradient_checkpointing),
        interrupt_asked() as interrupted,
        warnings.catch_warnings(),
    ):
        if not trainer.accelerator.is_main_process:
            warnings.simplefilter("ignore")  # one process says it for all
        if trainer.rng is None:
            set_seed(trainer.config.seed + trainer.accelerator.process_index)
        else:
            restore_rng(trainer.rng)
        trainer.rng = None
        try:
            yield interrupted
        finally:
            trainer.rng = capture_rng()
            trainer.optimizer.zero_grad(set_to_none=True)


def precision_and_threads(trainer: "Trainer") -> tuple[Precision, int]:
    """What the config says, or what was faster here; the same in all processes."""
    if trainer.config.precision != "auto":
        return trainer.config.precision, torch.get_num_threads()
    settings = of_the_first(fastest_settings())
    exact = any(p.dtype == torch.float64 for p in trainer.model.parameters())  # nobody asks for float64 to lose it
    return ("fp32" if exact else settings.precision), settings.threads


def progress_bar(trainer: "Trainer") -> tqdm:
    """One bar for all processes, none where a callback draws the progress or nobody wants to see it."""
    # tqdm's own switch, which its notebook form overlooks.
    switched_off = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    shown = trainer.progress and not any(callback.shows_progress for callback in trainer.callbacks)
    hidden = switched_off or not (shown and trainer.accelerator.is_main_process)
    return tqdm(total=trainer.total_steps, initial=trainer.step, desc="training", unit="step", disable=hidden)
