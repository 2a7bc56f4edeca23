"""What a run leaves behind (`History`) and what may look on and steer while it runs (`Callback`). Chapters 05 and 06."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import nn

from lora_edu.training.config import TrainConfig

Record = dict[str, Any]


@dataclass
class History:
    """The records of a run as plain JSON values.

    steps: one record a step: step (from 1), epoch (as a fraction), loss (nats per token, before the step's update), grad_norm
    (before clipping), learning_rate, tokens (answer tokens of the step), seconds (of the run so far), and penalty where the adapter's
    variant has a term of its own in what is minimised (`loss` is without it).
    evaluations: step, loss, tokens. best: the evaluation with the lowest loss, or None. stopped: why the run ended ("" while it
    runs).
    """

    steps: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    best: Record | None = None
    stopped: str = ""

    @property
    def losses(self) -> list[float]:
        """The training loss of every step."""
        return [record["loss"] for record in self.steps]

    @property
    def eval_losses(self) -> list[tuple[int, float]]:
        """(step, loss) of every evaluation."""
        return [(record["step"], record["loss"]) for record in self.evaluations]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> History:
        """The inverse of `to_dict`."""
        return cls(**values)


class Running(Protocol):
    """What a callback may use of the trainer that calls it."""

    config: TrainConfig
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    step: int
    total_steps: int
    learning_rate: float
    history: History
    seconds: float
    progress: bool

    @property
    def is_main_process(self) -> bool: ...

    def stop(self, why: str) -> None: ...

    def hold(self, may_go_on: Callable[[], bool]) -> None: ...

    def evaluate(self, examples: Sequence[Any] | None = None) -> float: ...


class Callback:
    """Base of everything that looks on while a run goes. Override what you need; each hook gets the trainer.

    A hook may call `trainer.stop("why")`, set `trainer.learning_rate` (the peak; the schedule goes on from it), or call
    `trainer.evaluate()` or, to wait, `trainer.hold(may_go_on)`. In `on_step_end` the step's gradients (clipped) are still in
    `.grad`. A callback that draws the progress itself sets `shows_progress` by the end of `on_train_begin`; the trainer then
    shows no bar.
    """

    shows_progress = False

    def on_train_begin(self, trainer: Running) -> None:
        """Before the first step, also when a run resumes (`trainer.step` says where)."""

    def on_step_end(self, trainer: Running, record: Record) -> None:
        """After every optimiser step."""

    def on_evaluate(self, trainer: Running, record: Record) -> None:
        """After every evaluation."""

    def on_train_end(self, trainer: Running, history: History) -> None:
        """When the run has ended, early or not, but not when it failed."""

    def on_train_exit(self, trainer: Running) -> None:
        """Last of all, whatever ended the run: its last step, `stop`, Ctrl-C or an error."""
