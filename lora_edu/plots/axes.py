"""Axes on a `Canvas`: data in, pixels out. Enough of a chart to move under a slider."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import INK, MUTED, RULE
from lora_edu.plots.primitives import Point


class Axes:
    """A box with a horizontal and a vertical scale, each linear or logarithmic."""

    def __init__(
        self,
        canvas: Canvas,
        box: tuple[float, float, float, float],
        xlim: tuple[float, float],
        ylim: tuple[float, float],
        xlog: bool = False,
        ylog: bool = False,
    ) -> None:
        """`box` is (x, y, width, height) in the canvas; the limits are in units of the data."""
        self.canvas, self.box, self.xlim, self.ylim, self.xlog, self.ylog = canvas, box, xlim, ylim, xlog, ylog

    def x(self, value: float) -> float:
        left, _, width, _ = self.box
        return left + width * _share(value, *self.xlim, self.xlog)

    def y(self, value: float) -> float:
        _, top, _, height = self.box
        return top + height * (1 - _share(value, *self.ylim, self.ylog))

    def at(self, x: float, y: float) -> Point:
        return self.x(x), self.y(y)

    def frame(
        self,
        xticks: Sequence[float] = (),
        yticks: Sequence[float] = (),
        xlabel: str = "",
        ylabel: str = "",
        size: float = 11,
    ) -> None:
        """Axis lines, ticks with their numbers, and labels; the ylabel stands above the axis, where it reads easily."""
        left, top, width, height = self.box
        for tick in yticks:
            y = self.y(tick)
            self.canvas.path([(left, y), (left + width, y)], stroke=RULE, width=0.6, opacity=0.6)
            self.canvas.text(left - 6, y + 4, number(tick), size, MUTED, "end")
        for tick in xticks:
            x = self.x(tick)
            self.canvas.path([(x, top + height), (x, top + height + 4)], stroke=RULE, width=1)
            self.canvas.text(x, top + height + 16, number(tick), size, MUTED, "middle")
        self.canvas.path([(left, top), (left, top + height), (left + width, top + height)], stroke=RULE, width=1)
        self.canvas.text(left + width, top + height + 31, xlabel, size, MUTED, "end")
        self.canvas.text(left - 30, top - 9, ylabel, size + 1, INK)

    def line(self, xs: Sequence[float], ys: Sequence[float], stroke: str, width: float = 2, **style) -> None:
        """A curve, cut off at the box's edge; it breaks where a value is not a number or leaves a logarithmic axis."""
        run: list[Point] = []
        for x, y in zip(xs, ys):
            if math.isfinite(x) and math.isfinite(y) and not (self.ylog and y <= 0):
                run.append((self.x(x), self.y(min(max(y, self.ylim[0]), self.ylim[1]))))
                continue
            self._flush(run, stroke, width, style)
            run = []
        self._flush(run, stroke, width, style)

    def _flush(self, run: list[Point], stroke: str, width: float, style: dict) -> None:
        if len(run) > 1:
            self.canvas.path(run, stroke=stroke, width=width, **style)

    def rule_at(self, x: float, stroke: str = INK) -> None:
        """A vertical line over the whole height: "you are here"."""
        _, top, _, height = self.box
        self.canvas.path([(self.x(x), top), (self.x(x), top + height)], stroke=stroke, width=1.2, dash=(3, 3))


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) if high > low else 0.5


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that divide [low, high] into about `count` steps."""
    span = high - low
    if span <= 0:
        return [low]
    unit = 10 ** math.floor(math.log10(span / count))
    step = next((m * unit for m in (1, 2, 5, 10) if span / (m * unit) <= count), 10 * unit)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """The powers of ten in [low, high]."""
    return [10.0**k for k in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)]


def number(value: float, digits: int = 3) -> str:
    """A number as a person writes it: 12,345 · 0.25 · 3.1e-07, at most `digits` significant digits below 1,000."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a person writes it: 117 %, 8.3 %, 0.25 %, and "< 0.01 %" for what is rounding."""
    if share == 0 or not math.isfinite(share):
        return "0 %" if share == 0 else number(share)
    if abs(share) < 1e-4:
        return "< 0.01 %"
    return f"{100 * share:,.0f} %" if abs(share) >= 0.0995 else f"{100 * share:.2g} %"
