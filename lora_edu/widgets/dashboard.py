"""Chapter 06: a run to watch and to steer. Pause it, stop it, change its learning rate while it goes."""

from __future__ import annotations

import math
import queue
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import torch

from lora_edu.errors import ConfigError
from lora_edu.models.modules import modes
from lora_edu.plots.axes import number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, WASH
from lora_edu.plots.raster import wrapped
from lora_edu.training.callbacks import Callback, History, Record, Running
from lora_edu.training.context import own_rng
from lora_edu.widgets import live
from lora_edu.widgets.base import WIDTH, State, Widget, choice
from lora_edu.widgets.curves import Mark, draw_losses, draw_rates

GAP = 0.25  # seconds between two drawings, at least
SHARE = 0.05  # of the time may go into drawing
RATES = [float(f"{m}e{k}") for k in range(-6, 0) for m in (1, 2, 5)] + [1.0]  # of the slider
Order = tuple[str, float | None]


class TrainingDashboard(Widget, Callback):
    """Shows a run while it goes, and lets the reader pause it, stop it and change its learning rate. Chapter 06.

        dashboard = TrainingDashboard()
        Trainer(model, examples, causal_lm_loss, config, collate=collate, callbacks=[dashboard]).train()

    It appears where the training starts, and leaves a picture of the end there. The controls only leave orders; the loop reads
    them between two steps and draws as well, so nothing ever happens to a model inside a step. Where the page cannot reach a
    running cell (`widgets.live`), it says so, the trainer's own progress bar runs, and the picture comes at the end.

    Args:
        sample: makes a text with the model as it is, shown as it comes: costs its own time, changes nothing in the run.
        every: steps between two samples.
        script: `{step: ("learning_rate", 1e-3)}` or `{step: ("stop", None)}`: what happens after a step when no reader has
            touched a control by then. The drawing says that it was the script.
        target: the held-out loss (nats a token) below which a run counts as rescued; `verdict` says whether it was.

    Raises:
        ConfigError: an order in the script that does not exist, or `every` below 1.
    """

    title = "Training dashboard"
    question = "Is this run healthy, and if not, what is to be done about it now?"

    def __init__(
        self,
        sample: Callable[[], str] | None = None,
        every: int = 20,
        *,
        script: Mapping[int, Order] | None = None,
        target: float | None = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1 step, not {every!r}.")
        self.sample, self.every, self.script, self.target = sample, every, dict(script or {}), target
        for step, (what, value) in self.script.items():
            if not ((what == "learning_rate" and value and value > 0) or what == "stop"):
                raise ConfigError(
                    f"The script's order at step {step} is {(what, value)!r}: give ('learning_rate', a positive number) or "
                    "('stop', None)."
                )
        self.trainer: Running | None = None
        self.marks: list[Mark] = []
        self.said: tuple[int, str] | None = None  # the last sample, and its step
        self.deaf = ""  # why there are no live controls
        self.running = self.paused = self.touched = self.failed = False
        self.drawings, self.drawing_seconds = 0, 0.0
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._stale, self._next = False, 0.0
        self._display = uuid.uuid4().hex
        self.rate = self._rate_slider(1e-3)
        self.pause = ipywidgets.Button(description="Pause", tooltip="Waits between two steps; nothing is lost")
        self.stop = ipywidgets.Button(description="Stop", tooltip="Ends the run after this step")
        self.pause.on_click(lambda _: self._orders.put(("pause", None)))
        self.stop.on_click(lambda _: self._orders.put(("stop", None)))
        super().__init__(
            smoothing=ipywidgets.IntSlider(10, 1, 50, description="smoothed over (steps)"),
            axis=choice("loss axis", ["logarithmic", "linear"]),
        )
        self._show_hands(False)

    def extras(self) -> list[ipywidgets.Widget]:
        return [self.rate, self.pause, self.stop]

    def _rate_slider(self, rate: float) -> ipywidgets.SelectionSlider:
        """Steps of 1, 2, 5 and their tens, the run's own rate and the script's; the page would round those of a float slider."""
        rates = sorted({*RATES, rate, *(value for _, value in self.script.values() if value)})
        slider = ipywidgets.SelectionSlider(
            options=[(number(each), each) for each in rates],
            value=rate,
            description="learning rate (peak)",
            layout={"width": "380px"},
        )
        slider.style.description_width = "initial"
        slider.observe(lambda change: self._orders.put(("learning_rate", change["new"])), names="value")
        return slider

    def _show_hands(self, shown: bool) -> None:
        """Controls that would do nothing are not on the page."""
        row = self.view.children[1]
        row.children = [*self.controls.values(), *(self.extras() if shown else [])]

    # What the trainer calls, in its own thread ------------------------------------------------------------------------
    def on_train_begin(self, trainer: Running) -> None:
        if trainer.step == 0:
            self.marks, self.said, self.touched = [], None, False
        self.trainer, self.running, self.paused, self.failed = trainer, True, False, False
        self.pause.description = "Pause"
        self.controls["smoothing"].max = min(50, max(2, trainer.total_steps))  # beyond, moving it would change nothing
        self.rate = self._rate_slider(trainer.learning_rate)
        self._orders = queue.SimpleQueue()  # what was pressed before concerns no run
        self._show()
        self.deaf = live.why_no_controls()
        self.shows_progress = not self.deaf
        if self.deaf and trainer.progress and live.kernel() is None:
            print(self.deaf, file=sys.stderr)
        live.let_through([*self.controls.values(), *self.extras()])
        self._show_hands(self.shows_progress)
        self._draw()

    def on_step_end(self, trainer: Running, record: Record) -> None:
        while self._obey_next(trainer):
            pass
        if not self.touched and trainer.step in self.script:
            self._obey(trainer, self.script[trainer.step], "the script")
        if self.sample and trainer.step % self.every == 0:
            self._take_sample(trainer)
        if self.paused:
            self._draw()
            trainer.hold(lambda: self._may_go_on(trainer))
        if self.shows_progress and (self._stale or time.monotonic() >= self._next):
            self._draw()

    def on_train_exit(self, trainer: Running) -> None:
        self.running = self.paused = self.shows_progress = False
        self.failed = isinstance(sys.exc_info()[1], Exception)  # Ctrl-C is none
        self._show_hands(False)
        if self.sample and trainer.history.stopped:
            self._take_sample(trainer)
        self._draw()
        self._show(again=True)

    def _may_go_on(self, trainer: Running) -> bool:
        if self._obey_next(trainer) or self._stale:
            self._draw()
        return not self.paused

    def _obey_next(self, trainer: Running) -> bool:
        """Follows the oldest order of the controls; False when there is none."""
        try:
            order = self._orders.get_nowait()
        except queue.Empty:
            return False
        self._obey(trainer, order, "you")
        return True

    def _obey(self, trainer: Running, order: Order, by: str) -> None:
        what, value = order
        if what == "learning_rate" and value is not None:
            if value == trainer.learning_rate:  # the slider followed; nobody moved it
                return
            trainer.learning_rate = value
            if self.marks and self.marks[-1].step == trainer.step:
                self.marks.pop()  # on the slider's way
            self.marks.append(Mark(trainer.step, value, by))
            if by == "the script":  # the slider follows, and its order is then the rate already
                self.rate.value = value
        elif what == "pause":
            self.paused = not self.paused
            self.pause.description = "Continue" if self.paused else "Pause"
        else:
            self.paused = False
            trainer.stop("stopped by hand" if by == "you" else f"stopped by {by}")
        self.touched = self.touched or by == "you"
        self._stale = True

    def _take_sample(self, trainer: Running) -> None:
        if self.sample:
            with modes(trainer.model, training=False), torch.no_grad(), own_rng():
                self.said = (trainer.step, str(self.sample()))

    # What it says when the run is over --------------------------------------------------------------------------------
    @property
    def held_out(self) -> float:
        """The held-out loss of the weights that the run ended with; nan where none was measured."""
        if self.trainer is None or not self.trainer.history.evaluations:
            return math.nan
        history = self.trainer.history
        best = history.best if self.trainer.config.keep_best else None
        return (best or history.evaluations[-1])["loss"]

    @property
    def lost_steps(self) -> int:
        """Steps whose training loss was above that of step 1: the untrained model's, on the rows of that step."""
        losses = self.trainer.history.losses if self.trainer else []
        return sum(loss > losses[0] for loss in losses)

    @property
    def rescued(self) -> bool:
        """Whether the held-out loss of the end lies below `target`."""
        return self.target is not None and self.held_out < self.target

    @property
    def verdict(self) -> str:
        """In words: whether the run was rescued, and how many steps it lost."""
        if self.target is None or self.running or math.isnan(self.held_out) or self.trainer is None:
            return ""
        compared = "below" if self.rescued else "not below"
        return (
            f"{'Rescued' if self.rescued else 'Not rescued'}: the held-out loss is {number(self.held_out)}, {compared} the target of "
            f"{number(self.target)}. Lost: {self.lost_steps} of {self.trainer.step} steps had a loss above that of step 1."
        )

    # Drawing ----------------------------------------------------------------------------------------------------------
    def _show(self, again: bool = False) -> None:
        """Puts this widget on the page, or a fresh picture of it where it stands."""
        if live.kernel() is not None:
            from IPython.display import display

            display(self, display_id=self._display, update=again)

    def _draw(self) -> None:
        before = time.perf_counter()
        self._stale = False
        self._redraw()
        spent = time.perf_counter() - before
        self.drawings, self.drawing_seconds = self.drawings + 1, self.drawing_seconds + spent
        self._next = time.monotonic() + max(GAP, spent / SHARE)

    def _on_change(self, change: Any = None) -> None:
        self._stale = True  # while the run goes, only its own thread draws
        if not self.running:
            super()._on_change(change)

    def compute(self, state: State) -> None:
        """Nothing to remember: the run goes on."""

    def draw(self, state: State, result: None) -> Canvas:
        trainer = self.trainer
        history = trainer.history if trainer else History()
        canvas = Canvas(WIDTH, 440)
        status, figures = self._status(), _figures(history)
        total = trainer.total_steps if trainer else 1
        canvas.text(8, 18, status, 14, bold=True)
        canvas.text(8, 38, figures, 12)
        canvas.rect(8, 48, WIDTH - 16, 7, stroke=RULE, width=1, fill=WASH)
        if history.steps:
            canvas.rect(8, 48, (WIDTH - 16) * len(history.steps) / total, 7, stroke=None, fill=BLUE)
            draw_losses(canvas, history, total, state, self.target)
            draw_rates(canvas, history, total, self.marks)
        lines = [
            *map(str, self.marks[-2:]),
            *([self.verdict] if self.verdict else []),
            *([self.deaf] if self.deaf and self.running else []),  # it concerns nobody who sees the picture afterwards
        ]
        y = 428.0
        if self.said:
            lines.append(f"Sample after step {self.said[0]}: {self.said[1]}")
        for line in lines:
            for part in wrapped(line, 12, WIDTH - 16)[:3]:
                canvas.text(8, y, part, 12, MUTED if line == self.deaf else INK)
                y += 18
        canvas.height = y + 6
        canvas.alt = " ".join(
            [f"{status}.", figures, *lines, _CURVES if history.steps else "There is nothing to draw yet."]
        )
        return canvas

    def _status(self) -> str:
        trainer = self.trainer
        if trainer is None:
            return "The run has not begun"
        done = f"step {trainer.step} of {trainer.total_steps}"
        if trainer.history.stopped:
            return f"{trainer.history.stopped.capitalize()} at {done}, after {_duration(trainer.seconds)}"
        if not self.running:
            return f"Failed after {done}" if self.failed else f"Interrupted at {done}: it can go on"
        left = trainer.seconds / trainer.step * (trainer.total_steps - trainer.step) if trainer.step else None
        ahead = "" if left is None else f", about {_duration(left)} left"
        return f"{'Paused' if self.paused else 'Running'} at {done}{ahead}"


_CURVES = (
    "Curves over the steps: the training loss of each step (thin), smoothed (thick), the held-out loss (squares), and below them the "
    "learning rate."
)


def _figures(history: History) -> str:
    if not history.steps:
        return "The curves appear here, and beside them the controls, while the run goes."
    last = history.steps[-1]
    held_out = f", held out {number(history.evaluations[-1]['loss'])}" if history.evaluations else ""
    best = f" (best {number(history.best['loss'])} at step {history.best['step']})" if history.best else ""
    return f"Loss of the last step {number(last['loss'])}{held_out}{best}, learning rate {number(last['learning_rate'], 2)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
