"""The curves of a run: losses, learning rate, and where somebody changed it. Chapter 06."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lora_edu.plots.axes import Axes, decades, number, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, ORANGE
from lora_edu.training.callbacks import History
from lora_edu.widgets.base import State

POINTS = 240  # of a curve; more cannot be seen
LABEL = 14  # pixels that a tick's number needs


class Mark(NamedTuple):
    """Somebody ("you" or "the script") changed the learning rate after `step`."""

    step: int
    rate: float
    by: str

    def __str__(self) -> str:
        return f"{self.by.capitalize()} set the learning rate to {number(self.rate)} after step {self.step}."


def smoothed(values: Sequence[float], over: int) -> list[float]:
    """Mean of the last `over` values at each place (fewer at the start): late by half of them."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i] - sums[max(0, i - over)]) / min(i, over) for i in range(1, len(sums))]


def _thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most about POINTS of them: of each bucket the lowest and the highest, so that no spike is lost."""
    size = math.ceil(2 * len(ys) / POINTS)
    if size <= 2:
        return list(xs), list(ys)
    kept = []
    for start in range(0, len(ys), size):
        bucket = range(start, min(start + size, len(ys)))
        kept += sorted({min(bucket, key=ys.__getitem__), max(bucket, key=ys.__getitem__)})
    return [xs[i] for i in kept], [ys[i] for i in kept]


def draw_losses(canvas: Canvas, history: History, total: int, state: State, target: float | None) -> None:
    """The training loss of each step and smoothed, and the held-out loss; `state` says over how many steps, and the axis."""
    steps, losses = [record["step"] for record in history.steps], history.losses
    measured = [*losses, *(loss for _, loss in history.eval_losses), *([target] if target else [])]
    log = state["axis"] == "logarithmic" and min(measured) > 0
    low, high = min(measured), max(measured)
    ylim = (low / 1.2, high * 1.2) if log else (0.0, high * 1.05 or 1.0)
    axes = Axes(canvas, (52, 92, 692, 190), (0, total), ylim, ylog=log)
    marks = _log_ticks(*ylim, height=190) if log else ticks(*ylim)
    axes.frame((), marks, "", "loss (nats a token)")
    axes.line(*_thinned(steps, losses), stroke=MUTED, width=1, opacity=0.8)
    axes.line(*_thinned(steps, smoothed(losses, state["smoothing"])), stroke=BLUE, width=3)
    for step, loss in history.eval_losses:
        x, y = axes.at(step, min(max(loss, ylim[0]), ylim[1]))
        canvas.rect(x - 4, y - 4, 8, 8, fill=ORANGE, stroke=INK, width=1)
    if target:
        canvas.path([axes.at(0, target), axes.at(total, target)], stroke=INK, width=1, dash=(6, 4))
        canvas.text(744, axes.y(target) - 5, "target", 11, INK, "end", halo=True)
    for x, name, stroke, width in ((270, "each step", MUTED, 1), (380, "smoothed", BLUE, 3)):
        canvas.path([(x - 32, 80), (x - 6, 80)], stroke=stroke, width=width)
        canvas.text(x, 84, name, 11, MUTED)
    canvas.rect(468, 76, 8, 8, fill=ORANGE, stroke=INK, width=1)
    canvas.text(484, 84, "held out", 11, MUTED)


def draw_rates(canvas: Canvas, history: History, total: int, marks: Sequence[Mark]) -> None:
    """The learning rate of each step below the losses, and across both the steps after which somebody set it."""
    rates = [record["learning_rate"] for record in history.steps]
    steps = [record["step"] for record in history.steps]
    above = [rate for rate in rates if rate > 0] + [mark.rate for mark in marks]
    ylim = (max(min(above), max(above) / 1e4) / 2.5, max(above) * 2.5)
    axes = Axes(canvas, (52, 322, 692, 62), (0, total), ylim, ylog=True)
    axes.frame(ticks(0, total, 8), _log_ticks(*ylim, height=62), "step", "learning rate")
    axes.line(*_thinned(steps, rates), stroke=ORANGE, width=2.5)
    for mark, later in zip(marks, [*marks[1:], None]):
        x = axes.x(mark.step + 0.5)
        for top, bottom in ((92, 282), (322, 384)):
            canvas.path([(x, top), (x, bottom)], stroke=INK, width=1, dash=(2, 3))
        if later is None or axes.x(later.step) > x + 110:  # of those close together the last one is said
            side = ("end", -4) if x > 640 else ("start", 4)
            canvas.text(x + side[1], 104, f"{number(mark.rate, 2)}, by {mark.by}", 11, INK, side[0], halo=True)


def _log_ticks(low: float, high: float, height: float) -> list[float]:
    """The powers of ten, and 1, 2, 5 times them where there are too few; none so near to another that their numbers overlap."""
    powers = decades(low, high)
    down = math.floor(math.log10(low))
    fine = [m * 10.0**k for k in range(down, down + 6) for m in (1, 5, 2)]
    wanted = powers if len(powers) >= 3 else [*powers, *sorted((f for f in fine if low <= f <= high), key=_roundness)]
    kept: list[float] = []
    for value in wanted:
        if all(abs(math.log(value / other)) * height / math.log(high / low) >= LABEL for other in kept):
            kept.append(value)
    return sorted(kept)


def _roundness(value: float) -> tuple[int, float]:
    """Fives before twos: they lie further from the powers of ten above them than one label's height, more often than not."""
    return (round(value / 10 ** math.floor(math.log10(value) + 1e-9)) != 5, value)
