"""What a run changes around itself and gives back at its end: modes, gradient checkpointing, random generators, threads, Ctrl-C."""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from lora_edu.models.modules import checkpointing, modes
from lora_edu.training.rng import capture_rng, restore_rng
from lora_edu.training.run import Run


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


def _copies_of_frozen_weights(run: Run) -> contextlib.AbstractContextManager[None]:
    """Under autocast W₀ is cast once a run and not once a step; where memory is short, as checkpointing says, it is not kept."""
    if run.precision != "bf16" or run.config.gradient_checkpointing:
        return contextlib.nullcontext()
    from lora_edu.adapters import arithmetic  # late: a trainer knows nothing of adapters

    return arithmetic.copies_kept()


@contextlib.contextmanager
def run_context(run: Run) -> Iterator[threading.Event]:
    """What a run changes around it and gives back; yields the flag that Ctrl-C raises."""
    with (
        own_rng(),
        num_threads(run.threads),
        modes(run.model, training=True),
        checkpointing(run.model, run.config.gradient_checkpointing),
        _copies_of_frozen_weights(run),
        interrupt_asked() as interrupted,
        warnings.catch_warnings(),
    ):
        if not run.is_main_process:
            warnings.simplefilter("ignore")  # one process says it for all
        if run.rng is None:
            set_seed(run.config.seed + run.accelerator.process_index)
        else:
            restore_rng(run.rng)
        run.rng = None
        try:
            yield interrupted
        finally:
            run.rng = capture_rng()
            run.optimizer.zero_grad(set_to_none=True)


def progress_bar(run: Run) -> tqdm:
    """One bar for all processes, none where a callback draws the progress or nobody wants to see it."""
    # tqdm's own switch, which its notebook form overlooks.
    switched_off = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    shown = run.progress and not any(callback.shows_progress for callback in run.callbacks)
    hidden = switched_off or not (shown and run.is_main_process)
    return tqdm(total=run.total_steps, initial=run.step, desc="training", unit="step", disable=hidden)
