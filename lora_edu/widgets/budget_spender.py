"""Chapter 12: one budget in bytes, what each way to fine-tune buys for it, and what it gave where it was measured."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets
from torch import Tensor

from lora_edu.errors import DataError
from lora_edu.experiments.spending import BYTES, WAYS, Way
from lora_edu.experiments.sweeps import Table
from lora_edu.plots.axes import Axes, number, percent, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, VERMILION, WASH
from lora_edu.training.memory.ledger import megabytes
from lora_edu.widgets.base import WIDTH, State, Widget, choice

BUDGETS = (10_000, 30_000, 100_000, 230_400, 1_000_000, 3_000_000, 10_000_000, 100_000_000, 540_000_000)
SHOWN = {"the task's loss": "test", "the loss on prose": "general"}  # words on the page: metric
ROW, BUYS, BAR, DOTS = 34, 140, 262, 372  # pixels: of a row; left of what is bought, of its bar, of the losses


@dataclass(frozen=True)
class Purchase:
    """What one way gives for the budget: its size (0: nothing), its numbers, and the losses (seeds,) of the largest measured size in it."""

    way: Way
    size: int
    numbers: int
    measured: int | None
    losses: Tensor | None


def purchases(race: Table, budget: float, metric: str) -> list[Purchase]:
    """What every way buys; losses only of what was measured and is paid."""
    found = []
    for way in WAYS:
        size = way.bought(budget)
        paid = [each for each, name in way.measured.items() if each <= size and _in(race, name)]
        best = max(paid, default=None)
        losses = race.where(metric, method=way.measured[best])[0] if best is not None else None
        found.append(Purchase(way, size, way.numbers(size), best, losses))
    return found


def _in(race: Table, name: str) -> bool:
    return any(cell["method"] == name for cell in race.cells)


class BudgetSpender(Widget):
    """What a budget in bytes buys of each method on the default model, and the losses that were measured. Chapter 12.

    Args:
        race: the sweep `neighbours`, or one with its cells {method, …} and the metrics `test` and `general`.

    Raises DataError for a table of another kind.
    """

    title = "Spend a budget"
    question = (
        "Which budget pays five of the eight ways with nearly the same number of numbers? Which of these is ahead there, and "
        "which way has nothing to sell to a larger purse?"
    )
    computes_on = ("budget", "shown")

    def __init__(self, race: Table) -> None:
        if not all("method" in cell for cell in race.cells) or not set(SHOWN.values()) <= set(race.metrics):
            raise DataError("BudgetSpender needs a table whose cells name a method, with the metrics test and general")
        self.race = race
        super().__init__(
            budget=ipywidgets.SelectionSlider(
                options=[(megabytes(each), each) for each in BUDGETS],
                value=BUDGETS[2],
                description="budget",
                layout={"width": "330px"},
            ),
            shown=choice("shown", list(SHOWN)),
        )

    def compute(self, state: State) -> list[Purchase]:
        return purchases(self.race, state["budget"], SHOWN[state["shown"]])

    def draw(self, state: State, result: list[Purchase]) -> Canvas:
        metric = SHOWN[state["shown"]]
        height = ROW * len(result)
        canvas = Canvas(WIDTH, height + 78)
        every = self.race.metrics[metric]
        every = every[every.isfinite()]
        room = 0.06 * float(every.max() - every.min()) + 1e-3
        axes = Axes(
            canvas,
            (DOTS, 28, WIDTH - DOTS - 20, height),
            (float(every.min()) - room, float(every.max()) + room),
            (0, 1),
        )
        axes.frame(ticks(*axes.xlim, 5), xlabel=f"{state['shown']}, nats a token; a dot: one seed, a bar: their mean")
        canvas.text(BUYS, 16, "buys", 12, MUTED)
        canvas.text(BAR, 16, "of the budget", 12, MUTED)
        canvas.text(DOTS, 16, "gave (as measured)", 12, MUTED)
        told = []
        for row, each in enumerate(result):
            y = 28 + ROW * (row + 0.5)
            told.append(self._draw_row(canvas, axes, y, each, each.numbers * BYTES / state["budget"]))
        canvas.text(
            8,
            height + 72,
            f"Budget {megabytes(state['budget'])}: {state['budget'] // BYTES:,} numbers of fp32.",
            12,
            INK,
        )
        canvas.alt = f"For {megabytes(state['budget'])}, with {state['shown']} as measured: {'; '.join(told)}."
        return canvas

    def _draw_row(self, canvas: Canvas, axes: Axes, y: float, each: Purchase, share: float) -> str:
        """One way's row; returns it in words."""
        name, bought = each.way.name, each.size > 0
        canvas.text(8, y + 4, name, 13, INK if bought else MUTED, bold=bought)
        canvas.rect(BAR, y - 6, 90, 12, fill=WASH, stroke=RULE, width=0.8)
        if not bought:
            canvas.text(BUYS, y + 4, "nothing", 12, MUTED)
            return f"{name} nothing"
        words = each.way.words(each.size)
        canvas.text(BUYS, y + 4, words, 13)
        canvas.rect(BAR, y - 6, max(90 * min(share, 1.0), 1.0), 12, fill=BLUE, stroke=None)
        if each.losses is None:
            canvas.text(DOTS + 8, y + 4, "not measured", 11, MUTED)
            return f"{name} {words}, {percent(share)} of it, not measured"
        for loss in each.losses.tolist():
            canvas.dot(axes.x(loss), y, 4.5, BLUE, opacity=0.55)
        mean = float(each.losses.mean())
        canvas.path([(axes.x(mean), y - 9), (axes.x(mean), y + 9)], stroke=VERMILION, width=3)
        where = "" if each.measured == each.size else f"at {each.way.words(each.measured or 0)}"
        if where:
            left = axes.x(mean) > DOTS + 240
            reach = [axes.x(loss) for loss in (*each.losses.tolist(), mean)]
            canvas.text(
                min(reach) - 10 if left else max(reach) + 10,
                y + 4,
                where,
                11,
                MUTED,
                "end" if left else "start",
                halo=True,
            )
        return f"{name} {words}, {percent(share)} of it, loss {number(mean)} {where}".rstrip()
