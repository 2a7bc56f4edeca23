"""Chapter 10: methods in one race, all at one learning rate, or each at its own best."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ipywidgets
import torch
from torch import Tensor

from lora_edu.errors import DataError
from lora_edu.experiments.sweeps import Table
from lora_edu.plots.axes import Axes, decades, number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, VERMILION
from lora_edu.widgets.base import WIDTH, State, Widget, choice

ONE, OWN = "one for all", "each its own best"
ROW, LEFT = 30, 138  # pixels: of a method's row, and left of the losses
FARTHEST = 10.0  # nats: what has diverged would press everything else into a corner


@dataclass(frozen=True)
class Place:
    """One method as it stands in the race: its rate, and the validation losses (seeds,) there."""

    method: str
    rate: float
    losses: Tensor
    at_edge: bool

    @property
    def mean(self) -> float:
        """Over the seeds; infinite where one of them diverged."""
        mean = float(self.losses.mean())
        return mean if math.isfinite(mean) else math.inf


def curve(table: Table, method: str, epochs: int) -> tuple[list[float], Tensor]:
    """Learning rates, rising, and the validation losses (rates, seeds) of a method."""
    rates = [cell["learning_rate"] for cell in table.cells if (cell["method"], cell["epochs"]) == (method, epochs)]
    return rates, table.where("valid_loss", method=method, epochs=epochs)


def place(table: Table, method: str, epochs: int, rate: float | None = None) -> Place:
    """A method at `rate`, or at the rate whose mean validation loss is least."""
    rates, losses = curve(table, method, epochs)
    means = losses.mean(1).nan_to_num(math.inf)
    i = rates.index(rate) if rate is not None else int(means.argmin())
    return Place(method, rates[i], losses[i], i in (0, len(rates) - 1))


class FairRace(Widget):
    """Every method's validation losses, a dot a seed, at one learning rate for all or at each one's best. Chapter 10.

    Args:
        table: the sweep `fair_race`, or one with its cells {method, epochs, learning_rate} and the metric `valid_loss`.

    Raises DataError for a table of another kind, or one whose methods were not tried at the same rates.
    """

    title = "A fair race"
    question = (
        "At one learning rate for all, which method wins, and by how much? Does it win at another rate too? "
        "And when each has its own?"
    )
    computes_on = ("rates", "rate", "epochs")

    def __init__(self, table: Table) -> None:
        if not all({"method", "epochs", "learning_rate"} <= set(cell) for cell in table.cells):
            raise DataError("FairRace needs a table whose cells name method, epochs and learning_rate")
        if "valid_loss" not in table.metrics:
            raise DataError("FairRace needs the metric valid_loss")
        self.table = table
        self.methods = list(dict.fromkeys(cell["method"] for cell in table.cells))
        self.epochs = sorted({cell["epochs"] for cell in table.cells})
        self.rates = curve(table, self.methods[0], self.epochs[0])[0]
        for method in self.methods:
            for epochs in self.epochs:
                if curve(table, method, epochs)[0] != self.rates or self.rates != sorted(self.rates):
                    raise DataError(f"{method} was not tried at the rates of {self.methods[0]}, in rising order")
        middle = self.rates[len(self.rates) // 3]
        super().__init__(
            rates=choice("learning rate", [ONE, OWN]),
            rate=ipywidgets.SelectionSlider(
                options=[(number(rate), rate) for rate in self.rates],
                value=middle,
                description="the one rate",
                layout={"width": "330px"},
            ),
            epochs=choice("passes over the rows", self.epochs),
        )

    def compute(self, state: State) -> list[Place]:
        """The methods from best to worst."""
        rate = state["rate"] if state["rates"] == ONE else None
        found = [place(self.table, method, state["epochs"], rate) for method in self.methods]
        return sorted(found, key=lambda each: each.mean)

    def draw(self, state: State, result: list[Place]) -> Canvas:
        losses = torch.cat([self.table.where("valid_loss", epochs=epochs).flatten() for epochs in self.epochs])
        shown = losses[losses.isfinite() & (losses > 0)]
        low, high = float(shown.min()) * 0.85, min(float(shown.max()) * 1.15, FARTHEST)
        height = ROW * len(result)
        canvas = Canvas(WIDTH, height + 84)
        axes = Axes(canvas, (LEFT, 26, WIDTH - LEFT - 150, height), (low, high), (0, 1), xlog=True)
        ticks = sorted(
            {t * m for t in (*decades(low / 10, high), low) for m in (1, 2, 5) if t in decades(low / 10, high)}
        )
        beyond = f"; beyond {number(FARTHEST)}: at the right end" if high == FARTHEST else ""
        axes.frame([t for t in ticks if low <= t <= high], xlabel=f"validation loss (nats a digit, log{beyond})")
        canvas.text(WIDTH - 140, 16, "mean", 11, MUTED)
        canvas.text(WIDTH - 70, 16, "its rate", 11, MUTED)
        told = []
        for row, each in enumerate(result):
            y = 26 + ROW * (row + 0.5)
            canvas.text(LEFT - 10, y + 4, each.method, 13, INK, "end", bold=row == 0)
            points = [float(loss) for loss in each.losses if math.isfinite(loss)]
            if points:
                canvas.path(
                    [(axes.x(min(*points, high)), y), (axes.x(min(max(points), high)), y)],
                    stroke=BLUE,
                    width=1.2,
                    opacity=0.6,
                )
            for loss in points:
                canvas.dot(axes.x(min(loss, high)), y, 4, BLUE, opacity=0.55)
            if math.isfinite(each.mean):
                x = axes.x(min(each.mean, high))
                canvas.path([(x, y - 9), (x, y + 9)], stroke=VERMILION, width=3)
            said = number(each.mean) if math.isfinite(each.mean) else "diverged"
            canvas.text(WIDTH - 140, y + 4, said, 13, bold=row == 0)
            canvas.text(WIDTH - 70, y + 4, number(each.rate) + (" (edge)" if each.at_edge else ""), 12, MUTED)
            told.append(f"{each.method} {said} at rate {number(each.rate)}")
        first, last = result[0], [each for each in result if math.isfinite(each.mean)][-1]  # they are sorted
        between = f"from {number(first.mean)} ({first.method}) to {number(last.mean)} ({last.method}): {number(last.mean / first.mean)} ×"
        canvas.text(LEFT, height + 74, f"Mean losses {between}. Dots: seeds; bar: their mean.", 12, INK)
        canvas.alt = f"Methods from best to worst by mean validation loss over {len(self.table.seeds)} seeds: {'; '.join(told)}. They reach {between}."
        return canvas
