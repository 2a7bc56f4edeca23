"""Chapter 08: four knobs of a run with Adam, the two numbers that are left of them, and the measured loss behind each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import ipywidgets
import torch
from torch import Tensor

from lora_edu.errors import DataError
from lora_edu.experiments.sweeps import Table
from lora_edu.plots.axes import Axes, number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, PAPER, VERMILION
from lora_edu.widgets.base import WIDTH, State, Widget, choice

ALPHAS = (1, 2, 4, 8, 16, 32, 64, 128)
STARTS = (0.25, 0.5, 1.0, 2.0, 4.0)
RATES = tuple(
    0.001 * 2.0**k for k in range(-3, 7)
)  # powers of two apart, as the other knobs: equal runs can be met exactly
HIDDEN, SHOWN = "hidden", "shown"
BESIDE = (
    math.sqrt(10) ** 0.51
)  # a measured point this factor away, or less, is the nearest one; farther out nothing was measured
METRIC = "valid_loss_"


@dataclass(frozen=True)
class Knobs:
    """What somebody sets for a run: α, A's start as a multiple of PEFT's, and both learning rates."""

    alpha: float
    start: float
    rate_A: float
    rate_B: float

    def point(self, r: int) -> tuple[float, float]:
        """(lr_A / start, s·start·lr_B): runs with Adam that agree in both are one run (law 4). The scale s is α/r."""
        return self.rate_A / self.start, self.alpha / r * self.start * self.rate_B


@dataclass(frozen=True)
class Found:
    """Where the knobs stand, and what was measured there."""

    point: tuple[float, float]
    nearest: tuple[float, float] | None  # of the measured points; None: none is near
    curves: Tensor  # validation losses (steps, seeds); empty where nothing is near


MARKED = {
    "1": Knobs(32, 1, 0.004, 0.004),
    "2": Knobs(8, 1, 0.016, 0.016),
    "3": Knobs(8, 4, 0.004, 0.004),
    "4": Knobs(8, 4, 0.016, 0.004),
    "5": Knobs(8, 1, 0.016, 0.004),
}


class KnobMap(Widget):
    """α, A's start and both learning rates as sliders, and the one point of a map on which they stand. Chapter 08.

    Args:
        measured: the table of the sweep `two_rates`: validation losses along a run at every pair of rates, at scale 1 and PEFT's start.
        marked: runs by name, whose knobs are listed and whose places are shown on demand.

    Raises DataError when the table is no full grid of two rates with losses along the way.
    """

    title = "The knob map"
    question = "Five runs are listed, 1 to 5. Which two are the same run? And with one rate for both factors: how near to the lowest loss can α bring you?"
    computes_on = ("alpha", "start", "rate_A", "rate_B")

    def __init__(self, measured: Table, marked: Mapping[str, Knobs] = MARKED) -> None:
        self.marked = dict(marked)
        try:
            self.r = int(measured.about["settings"]["r"])
            self.rates_A, self.rates_B = (
                tuple(sorted({cell[axis] for cell in measured.cells})) for axis in ("rate_A", "rate_B")
            )
        except KeyError as error:
            raise DataError(
                f"the knob map needs the table of the sweep two_rates; {error} is missing in this one"
            ) from None
        self.steps = tuple(
            sorted(int(name.removeprefix(METRIC)) for name in measured.metrics if name.startswith(METRIC))
        )
        if not self.steps or len(measured.cells) != len(self.rates_A) * len(self.rates_B):
            raise DataError("the knob map needs losses along the run at every pair of A's and B's rates")
        losses = torch.stack(
            [measured.metrics[f"{METRIC}{step}"] for step in self.steps], dim=1
        )  # (cells, steps, seeds)
        self.curves = {(cell["rate_A"], cell["rate_B"]): each for cell, each in zip(measured.cells, losses)}
        self.last = {at: float(each[-1].mean()) for at, each in self.curves.items()}

        def slider(said: str, values: tuple[float, ...], value: float) -> ipywidgets.SelectionSlider:
            return ipywidgets.SelectionSlider(
                options=[(number(each), each) for each in values],
                value=value,
                description=said,
                layout={"width": "350px"},
            )

        super().__init__(
            alpha=slider(f"α (r is {self.r})", ALPHAS, 8),
            start=slider("A's start ×", STARTS, 1.0),
            rate_A=slider("learning rate of A", RATES, RATES[3]),
            rate_B=slider("learning rate of B", RATES, RATES[3]),
            places=choice("places of 1 to 5", [HIDDEN, SHOWN]),
        )

    def compute(self, state: State) -> Found:
        x, y = point = Knobs(*(state[name] for name in self.computes_on)).point(self.r)
        near = (
            min(self.rates_A, key=lambda rate: _apart(rate, x)),
            min(self.rates_B, key=lambda rate: _apart(rate, y)),
        )
        if max(_apart(near[0], x), _apart(near[1], y)) > math.log(BESIDE):
            return Found(point, None, torch.empty(0, 0))
        return Found(point, near, self.curves[near])

    def draw(self, state: State, result: Found) -> Canvas:
        canvas = Canvas(WIDTH, 500)
        (x, y), told = result.point, []
        canvas.text(
            8, 18, f"x = A's rate / start = {number(x)},  y = s · start · B's rate = {number(y)}", 15, bold=True
        )
        self._draw_map(canvas, state, result)
        told.append(self._draw_curves(canvas, result))
        for row, (name, knobs) in enumerate(self.marked.items()):
            top = 352 + 23 * row
            said = f"α {number(knobs.alpha)}, start × {number(knobs.start)}, A {number(knobs.rate_A)}, B {number(knobs.rate_B)}"
            canvas.text(452, top, name, 14, GREEN, bold=True)
            canvas.text(472, top, said, 13)
            told.append(
                f"run {name} is {said}"
                + (f" and lies at {_said(knobs.point(self.r))}" if state["places"] == SHOWN else "")
            )
        best = min(self.last, key=lambda at: _rank(self.last[at]))
        canvas.alt = (
            f"The knobs stand at x = A's rate / start = {number(x)} and y = s · start · B's rate = {number(y)}. {told[0]} "
            f"A map shows the mean loss after {self.steps[-1]} steps at {len(self.last)} pairs of rates; the lowest, "
            f"{self.last[best]:.2f}, lies at {_said(best)}. Marked runs: {'; '.join(told[1:])}."
        )
        return canvas

    def _draw_map(self, canvas: Canvas, state: State, result: Found) -> None:
        """Mean losses at the end as numbers on shades, both axes logarithmic; a ring where the knobs stand."""
        half = math.sqrt(self.rates_A[1] / self.rates_A[0]) if len(self.rates_A) > 1 else 2.0
        xlim, ylim = ((rates[0] / half / 2, rates[-1] * half * 2) for rates in (self.rates_A, self.rates_B))
        axes = Axes(canvas, (52, 66, 372, 374), xlim, ylim, xlog=True, ylog=True)
        axes.frame(self.rates_A, self.rates_B, "x (log)", "y (log); in the squares the loss at the end")
        side = 0.46 * min(
            axes.x(self.rates_A[1]) - axes.x(self.rates_A[0]), axes.y(self.rates_B[0]) - axes.y(self.rates_B[1])
        )
        best = min(map(_rank, self.last.values()))
        for at, loss in self.last.items():
            (px, py), good = axes.at(*at), best / _rank(loss)
            canvas.rect(px - side, py - side, 2 * side, 2 * side, stroke=None, fill=BLUE, opacity=0.06 + 0.5 * good)
            canvas.text(
                px, py + 4, f"{loss:.2f}" if loss < 10 else "> 10" if math.isfinite(loss) else "—", 11, INK, "middle"
            )
        if ends := _diagonal(result.point, xlim, ylim):
            axes.line([x for x, _ in ends], [y for _, y in ends], VERMILION, 1.4, dash=(5, 4))
        if state["places"] == SHOWN:
            taken: dict[tuple[float, float], int] = {}
            for name, knobs in self.marked.items():
                at = knobs.point(self.r)
                px, py = axes.at(*(_clipped(value, *limit) for value, limit in zip(at, (xlim, ylim))))
                shift = 17 * taken.get(at, 0)
                taken[at] = taken.get(at, 0) + 1
                canvas.dot(px, py, 3.5, GREEN, PAPER, 1)
                canvas.text(px + 7 + shift, py - 7, name, 15, GREEN, bold=True, halo=True)
        px, py = axes.at(*(_clipped(value, *limit) for value, limit in zip(result.point, (xlim, ylim))))
        canvas.dot(px, py, 17, None, VERMILION, 3)  # around the number of a cell
        canvas.text(
            52,
            492,
            "ring: your knobs; dashes: both rates moved together, α kept; the bluer, the lower the loss",
            11,
            MUTED,
        )

    def _draw_curves(self, canvas: Canvas, result: Found) -> str:
        """The validation loss along the nearest measured run, three seeds and their mean; says it in words."""
        axes = Axes(canvas, (496, 66, 250, 190), (self.steps[0], self.steps[-1]), (0.1, 20), xlog=True, ylog=True)
        axes.frame(self.steps, (0.1, 0.3, 1, 3, 10), "steps (log)", "validation loss (nats a digit, log)")
        if result.nearest is None:
            canvas.text(621, 160, "nothing was measured here", 13, MUTED, "middle", halo=True)
            canvas.text(452, 316, "outside the measured map", 13, MUTED)
            return "Nothing was measured near it."
        for seed in result.curves.T.tolist():
            axes.line(self.steps, seed, MUTED, 1.2, dash=(4, 3))
        axes.line(self.steps, result.curves.mean(1).tolist(), VERMILION, 2.5)
        last = result.curves[-1]
        off = math.exp(max(_apart(a, b) for a, b in zip(result.nearest, result.point)))
        low, *_, high = sorted(last.tolist(), key=_rank)
        said = f"{_loss(float(last.mean()))}, seeds {_loss(low)} to {_loss(high)}"
        canvas.text(452, 306, f"loss at the end: {said}", 13, bold=True)
        away = "measured exactly here" if off < 1.001 else f"measured at {_said(result.nearest)}, {off:.1f} × away"
        canvas.text(452, 325, away, 11, MUTED)
        return f"The measured run nearest to it, at {_said(result.nearest)}, ends with a validation loss of {said}."


def _apart(one: float, other: float) -> float:
    """Distance of two positive numbers, in logarithms."""
    return abs(math.log(one / other))


def _diagonal(
    point: tuple[float, float], xlim: tuple[float, float], ylim: tuple[float, float]
) -> list[tuple[float, float]]:
    """Both ends of what moving both rates together can reach from `point` within the limits: y/x stays. Empty where it passes by."""
    (x, y), low_high = point, zip(xlim, ylim)
    low, high = (limit(bounds[0] / x, bounds[1] / y) for limit, bounds in zip((max, min), low_high))
    return [(x * low, y * low), (x * high, y * high)] if low < high else []


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _rank(loss: float) -> float:
    """A loss to order by: a run that diverged is the worst."""
    return loss if math.isfinite(loss) else math.inf


def _loss(value: float) -> str:
    if not math.isfinite(value):
        return "diverged"
    return f"{value:.2f}" if value < 100 else "> 100"


def _said(point: tuple[float, float]) -> str:
    return f"({number(point[0])}, {number(point[1])})"
