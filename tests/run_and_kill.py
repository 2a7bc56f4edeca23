"""Runs, kills and resumes training in processes of its own; `test_resume.py` compares what they leave behind.

    python run_and_kill.py FOLDER

Every run is a forked child that trains a tiny Llama with dropout in its adapters and noise from all three random generators in its
batches. For each moment a child is killed by SIGKILL there, then another resumes. A child writes its last weights and history to
FOLDER/<moment>.safetensors and .json.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import torch
from conftest import make_tiny_llama
from safetensors.torch import save_file

from lora_edu.adapters import LoRAConfig, inject
from lora_edu.training import Callback, TrainConfig, Trainer, causal_lm_loss
from lora_edu.training import checkpoints as train_state

CONFIG = {
    "learning_rate": 0.01, "batch_size": 2, "gradient_accumulation_steps": 2, "epochs": 4, "save_every": 3, "eval_every": 4,
    "keep_best": True, "warmup_steps": 2, "precision": "fp32",
}  # fmt: skip  # 10 rows: 3 steps an epoch, 12 in all, checkpoints at 3, 6, 9 and 12


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def noisy_batch(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Replaces one token a row by one that Python, NumPy and torch draw together."""
    rows = [list(row) for row in rows]
    for row in rows:
        row[3] = 1 + (random.randrange(31) + int(np.random.randint(31)) + int(torch.randint(31, ()))) % 31
    ids = torch.tensor(rows)
    labels = ids.clone()
    labels[:, :2] = -100
    return {"input_ids": ids, "labels": labels}


LOSS = causal_lm_loss  # one moment puts another in its place, which the run's identity does not see


def loss(model, batch):
    return LOSS(model, batch)


class DieAt(Callback):
    """Dies between two steps; halves the learning rate at step 5, which a resumed run has to remember."""

    def __init__(self, step: int | None = None, pause: float = 0.0) -> None:
        self.step, self.pause = step, pause

    def on_step_end(self, trainer, record):
        if record["step"] == 5:
            trainer.learning_rate /= 2
        if record["step"] == self.step:
            die()
        time.sleep(self.pause)


def trainer(folder: Path, callback: DieAt | None = None, **config) -> Trainer:
    torch.set_num_threads(1)
    model = make_tiny_llama()
    torch.manual_seed(3)
    inject(model, LoRAConfig(r=2, target_modules="all-linear", lora_dropout=0.3))
    generator = random.Random(0)
    rows = [[generator.randrange(1, 32) for _ in range(7)] for _ in range(14)]
    settings = TrainConfig(**CONFIG | {"output_dir": str(folder)} | config)
    return Trainer(
        model, rows[:10], loss, settings, collate=noisy_batch, eval_examples=[[*row] for row in rows[10:]],
        callbacks=[callback or DieAt()], progress=False,
    )  # fmt: skip


# --- the moments ------------------------------------------------------------------------------------------------------


def on_call(number: int, function, before_death=None):
    """`function`, but the `number`-th call dies (after `before_death` did its work)."""
    calls = iter(range(1, 10**6))

    def wrapped(*args, **kwargs):
        if next(calls) == number:
            if before_death:
                before_death(*args, **kwargs)
            die()
        return function(*args, **kwargs)

    return wrapped


def in_a_step(folder: Path) -> None:
    """In the forward pass of a second micro-batch, evaluations counted: the gradients of the first are lost."""
    global LOSS
    LOSS = on_call(18, causal_lm_loss)
    trainer(folder).train()


def in_the_update(folder: Path) -> None:
    run = trainer(folder)
    run.optimizer.step = on_call(8, run.optimizer.step, before_death=run.optimizer.step)  # type: ignore[method-assign]
    run.train()


def in_the_tensors(folder: Path) -> None:
    def half(tensors, path):
        save_file(tensors, path)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)

    train_state.save_file = on_call(2, train_state.save_file, before_death=half)
    trainer(folder).train()


def before_the_rename(folder: Path) -> None:
    train_state.os.replace = on_call(3, os.replace)
    trainer(folder).train()


def after_the_rename(folder: Path) -> None:
    """The new checkpoint is in place, the oldest is half removed."""

    def half(old, **kwargs):
        next(iter(sorted(Path(old).iterdir()))).unlink()

    train_state.shutil.rmtree = on_call(1, train_state.shutil.rmtree, before_death=half)
    trainer(folder).train()


def between_steps(folder: Path) -> None:
    trainer(folder, callback=DieAt(step=7)).train()


def before_any_checkpoint(folder: Path) -> None:
    trainer(folder, callback=DieAt(step=2)).train()


def from_outside(folder: Path) -> None:
    """The parent kills it as soon as its second checkpoint is there."""
    trainer(folder, callback=DieAt(pause=0.05)).train()


MOMENTS = [
    in_a_step, in_the_update, in_the_tensors, before_the_rename, after_the_rename, between_steps, before_any_checkpoint,
    from_outside,
]  # fmt: skip


# --- processes --------------------------------------------------------------------------------------------------------


def child(work) -> int:
    """Runs `work` in a forked process and returns its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def end_of(pid: int) -> int:
    """0 for a child that ended well, minus the signal that killed it, else its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave(run: Trainer, history, folder: Path, name: str) -> None:
    save_file({name: p.detach().clone() for name, p in run.parameters.items()}, folder / f"{name}.safetensors")
    records = [{key: value for key, value in record.items() if key != "seconds"} for record in history.steps]
    result = {"steps": records, "evaluations": history.evaluations, "best": history.best, "stopped": history.stopped}
    (folder / f"{name}.json").write_text(json.dumps(result))


def free_port() -> int:
    """A port on which processes of this machine can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main(folder: Path) -> None:
    ends: dict[str, object] = {}
    torch.set_num_threads(1)
    causal_lm_loss(
        make_tiny_llama(), noisy_batch([[1, 2, 3, 4, 5]])
    )  # what is imported late is imported once, before the forks

    def uninterrupted() -> None:
        run = trainer(folder / "uninterrupted")
        leave(run, run.train(), folder, "uninterrupted")

    ends["uninterrupted"] = end_of(child(uninterrupted))
    for moment in MOMENTS:
        name = moment.__name__
        pid = child(lambda: moment(folder / name))  # noqa: B023  # it runs at once
        if moment is from_outside:
            until = time.monotonic() + 60
            while not (folder / name / "step-00000006").exists() and time.monotonic() < until:
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
        ends[name] = end_of(pid)
        ends[f"{name} left"] = sorted(path.name for path in (folder / name).iterdir() if path.is_dir())

        def go_on() -> None:
            run = trainer(folder / name)  # noqa: B023
            history = run.train() if moment is before_any_checkpoint else run.resume()  # noqa: B023
            leave(run, history, folder, name)  # noqa: B023

        ends[f"{name} resumed"] = end_of(child(go_on))
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
