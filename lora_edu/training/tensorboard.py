"""A run's curves in TensorBoard. Chapter 06 draws its own; this is for who has a TensorBoard open already."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_edu.errors import ConfigError
from lora_edu.training.callbacks import Callback, History, Record, Running

_STEP = ("loss", "grad_norm", "learning_rate", "tokens")  # the entries of a step's record that become curves


class TensorBoard(Callback):
    """Writes each step's record as `train/…` and each evaluation as `eval/loss`: `Trainer(..., callbacks=[TensorBoard("runs/tb")])`.

    Then `tensorboard --logdir runs/tb`. Of several processes the first one writes. A resumed run goes on with its curves; points that
    an interrupted one had written beyond its last checkpoint are purged.

    folder: where the event file goes. writer: makes the object that is written to, from a folder and `purge_step`; torch's
    SummaryWriter if not given, which needs the package tensorboard: ConfigError without it.
    """

    def __init__(self, folder: str | Path, writer: Callable[..., Any] | None = None) -> None:
        self.folder = Path(folder)
        self._make = writer or _summary_writer()  # refused here, and not after the model has been loaded
        self._writer: Any = None

    def on_train_begin(self, trainer: Running) -> None:
        if trainer.is_main_process:
            self._writer = self._make(str(self.folder), purge_step=trainer.step + 1)

    def on_step_end(self, trainer: Running, record: Record) -> None:
        for name in _STEP:
            self._add(f"train/{name}", record[name], record["step"])

    def on_evaluate(self, trainer: Running, record: Record) -> None:
        self._add("eval/loss", record["loss"], record["step"])

    def on_train_end(self, trainer: Running, history: History) -> None:
        if history.best is not None:
            self._add("eval/best_loss", history.best["loss"], history.best["step"])

    def on_train_exit(self, trainer: Running) -> None:
        if self._writer is not None:
            self._writer.close()  # which writes what is left, also after an error
            self._writer = None

    def _add(self, name: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)


def _summary_writer() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard's files are written by the package tensorboard, which is not installed: pip install tensorboard, or leave "
            "this callback out (the history and the dashboard need nothing)."
        ) from error
    return SummaryWriter
