"""Chapter 04: which of the model's matrices get an adapter, what that costs, and what each choice scored for the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import ipywidgets

from lora_edu.experiments.choices import ALL_LINEAR, KINDS, LAYERS, NOTHING, Budget, Choice, _model, budget
from lora_edu.experiments.sweeps import Table, table
from lora_edu.plots.axes import Axes, number, percent, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, VERMILION, WASH
from lora_edu.training.memory.ledger import megabytes
from lora_edu.widgets.base import WIDTH, State, Widget

R_MAX = 128  # k and v have 192 outputs, which no rank may exceed
LEFT = 124  # pixels to the first layer
NEAR = 0.02  # bytes within 2 % of the reference count as the same
PITCH, UNIT = 21, 1 / 75  # pixels a layer; pixels a row or column of a matrix


@dataclass(frozen=True)
class Score:
    """Held-out losses of one measured choice, one a seed."""

    choice: Choice
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.losses) / len(self.losses)


def scores(grid: Table) -> list[Score]:
    """The choices that were run, judged on the seeds that all of them were run with. Grid: of the sweep `targets_grid`."""
    losses = grid.metrics["loss"]  # (cells, seeds), NaN: not run
    begun = losses.isfinite().any(dim=1)
    complete = losses[begun].isfinite().all(dim=0)
    return [
        Score(choice, tuple(losses[i, complete].tolist()))
        for i, choice in enumerate(map(Choice.of_cell, grid.cells))
        if begun[i] and complete.any() and choice != NOTHING
    ]


def loss_of_base(grid: Table) -> float:
    """Held-out loss without any training."""
    return float(grid.where("loss", **NOTHING.cell()).nanmean())


class BudgetPainter(Widget):
    """The 210 matrices to scale; painted ones get an adapter. Parameters, bytes and the measured score of a choice. Chapter 04.

    Args:
        grid: measured choices; by default the stored ones.
    """

    title = "Paint a budget"
    question = "With the bytes of all-linear at r = 8, and its learning rate: which choice of matrices reaches a lower held-out loss?"
    computes_on = (*KINDS, "first", "last", "r")

    def __init__(self, grid: Table | None = None) -> None:
        grid = grid or table("targets_grid")
        self.scores, self.base_loss = scores(grid), loss_of_base(grid)
        self.painted = {
            ALL_LINEAR
        }  # measured choices that were painted so far: a dot is shown when its choice was found
        kinds: dict[str, Any] = {
            kind: ipywidgets.Checkbox(kind in ("q", "v"), description=kind, indent=False) for kind in KINDS
        }
        for box in kinds.values():
            box.layout = ipywidgets.Layout(width="72px")
        self.button = ipywidgets.Button(description="Take the rank with all-linear's bytes")
        self.button.layout = ipywidgets.Layout(width="auto")
        self.button.on_click(self._match)
        super().__init__(
            **kinds,
            first=ipywidgets.IntSlider(0, 0, LAYERS - 1, description="from layer"),
            last=ipywidgets.IntSlider(LAYERS - 1, 0, LAYERS - 1, description="to layer"),
            r=ipywidgets.IntSlider(ALL_LINEAR.r, 1, R_MAX, description="rank r"),
        )

    def extras(self) -> list[ipywidgets.Widget]:
        return [self.button]

    def _match(self, _button: Any) -> None:
        with self.reported():
            choice = Choice.of(self.state)
            if choice.kinds:
                self.controls["r"].value = min(max(matching_rank(choice), 1), R_MAX)

    def compute(self, state: State) -> Budget:
        return budget(Choice.of(state))

    def draw(self, state: State, result: Budget) -> Canvas:
        choice = Choice.of(state)
        if self._found(choice):
            self.painted.add(choice)
        canvas = Canvas(WIDTH, 404)
        _draw_map(canvas, {target.name for target in result.targets})
        cost = _draw_cost(canvas, result)
        verdict = self._verdict(choice, result)
        self._draw_scores(canvas, choice, verdict)
        place = f"{choice.place}, r = {choice.r}" if choice.kinds else "none"
        canvas.alt = f"{len(result.targets)} of 210 matrices painted ({place}). {cost} {verdict}"
        return canvas

    def _found(self, choice: Choice) -> Score | None:
        return next((score for score in self.scores if score.choice == choice), None)

    def _verdict(self, choice: Choice, result: Budget) -> str:
        """One sentence: the score of what is painted, or why there is none."""
        if not choice.kinds:
            return "Nothing is painted, so nothing trains."
        reference = self._found(ALL_LINEAR)
        if found := self._found(choice):
            said = f"Measured: a held-out loss of {found.mean:.3f} ({_seeds(found)})"
            if reference is None or found is reference:
                return f"{said}: this is the one to beat."
            if len(found.losses) == 1:
                return f"{said}; all-linear has {reference.mean:.3f}. One seed each: only a wide gap says anything."
            if min(found.losses) > max(reference.losses):
                return f"{said}: at this learning rate worse than all-linear at {reference.mean:.3f}, seed for seed."
            if max(found.losses) < min(reference.losses):
                return f"{said}: at this learning rate better than all-linear at {reference.mean:.3f}. Challenge won."
            return f"{said}: all-linear has {reference.mean:.3f}, and the seeds overlap. No winner."
        same_place = [
            s.choice.r for s in self.scores if (s.choice.kinds, s.choice.layers) == (choice.kinds, choice.layers)
        ]
        if same_place:
            return f"Not measured at r = {choice.r}, but at r = {same_place[0]}: the button takes you there."
        return "Not measured: this choice has no score, and none is made up."

    def _draw_scores(self, canvas: Canvas, choice: Choice, verdict: str) -> None:
        """The measured choices painted so far, each a dot with the range of its seeds; the present one and all-linear by name."""
        found = f"Measured for nearly these bytes: {len(self.scores)} choices; found so far: {len(self.painted)}."
        canvas.text(12, 278, f"{found} Paint one and its dot appears.", 13, bold=True)
        canvas.text(12, 297, verdict, 12)
        every = [loss for score in self.scores for loss in score.losses]
        room = 0.08 * (max(every) - min(every)) + 1e-3
        axes = Axes(canvas, (40, 312, WIDTH - 80, 56), (min(every) - room, max(every) + room), (0, 1))
        axes.frame(
            ticks(*axes.xlim, 6), (), f"held-out loss a token (further left is better; the base: {self.base_loss:.2f})"
        )
        shown = [(i, score) for i, score in enumerate(self.scores) if score.choice in self.painted]
        for i, score in sorted(shown, key=lambda pair: pair[1].choice == choice):  # the present one last, so on top
            here, reference = score.choice == choice, score.choice == ALL_LINEAR
            colour = VERMILION if here else BLUE if reference else MUTED
            height = 0.12 + 0.1 * (i % 3)  # neighbours do not hide each other
            x, y = axes.at(score.mean, height)
            axes.line([min(score.losses), max(score.losses)], [height, height], colour, 4 if here else 1.5, opacity=0.6)
            canvas.dot(x, y, 6 if here else 4.5, colour, INK, 1)
            anchor = "start" if x < 160 else "end" if x > WIDTH - 160 else "middle"
            if here:
                canvas.text(x, axes.y(0.25) - 26, score.choice.place, 12, colour, anchor, bold=True, halo=True)
            elif reference:
                canvas.text(x, axes.y(0.25) - 10, "all-linear", 12, colour, anchor, bold=True, halo=True)


def matching_rank(choice: Choice) -> int:
    """The rank that brings `choice` nearest to the parameters of all-linear at r = 8."""
    of_rank_1 = budget(Choice(choice.kinds, choice.layers, 1)).parameters
    return round(budget(ALL_LINEAR).parameters / of_rank_1)


def _seeds(score: Score) -> str:
    count = len(score.losses)
    return f"{min(score.losses):.3f} to {max(score.losses):.3f} over {count} seeds" if count > 1 else "one seed"


def _draw_map(canvas: Canvas, painted: set[str]) -> None:
    """Rows are the seven matrices of a layer, columns the layers; each matrix to scale, out high and in wide."""
    modules = {kind: _shapes(kind) for kind in KINDS}
    y = 20.0
    for kind, (name, (n_out, n_in)) in modules.items():
        h, w = n_out * UNIT, n_in * UNIT
        row = max(h, 12)
        canvas.text(12, y + row / 2 + 4, kind, 13, bold=True)
        canvas.text(60, y + row / 2 + 4, f"{n_out} × {n_in}", 10, MUTED)
        for layer in range(LAYERS):
            x = LEFT + PITCH * layer + (PITCH - w) / 2
            on = name.format(layer) in painted
            canvas.rect(
                x,
                y + (row - h) / 2,
                w,
                h,
                fill=BLUE if on else WASH,
                stroke=INK if on else RULE,
                width=1 if on else 0.7,
            )
        y += row + 4
    for layer in range(0, LAYERS, 5):
        canvas.text(LEFT + PITCH * (layer + 0.5), y + 9, str(layer), 11, MUTED, "middle")
    canvas.text(12, y + 9, "layer", 11, MUTED)


@cache
def _shapes(kind: str) -> tuple[str, tuple[int, int]]:
    """The name of a matrix with a gap for its layer, and (out, in)."""
    target = budget(Choice((kind,), (0, 0), 1)).targets[0]
    return target.name.replace(".0.", ".{}."), target.shape


def _draw_cost(canvas: Canvas, result: Budget) -> str:
    """A bar against all-linear's parameters; returns the bill as a sentence."""
    reference, total = budget(ALL_LINEAR).parameters, sum(p.numel() for p in _model().parameters())
    share = result.parameters / reference
    bill: Sequence[str] = (
        f"{number(result.parameters)} parameters ({percent(result.parameters / total)} of the base)",
        f"optimiser {megabytes(result.optimizer)}",
        f"file {megabytes(result.file)}" if result.targets else "no file",
    )
    canvas.text(12, 206, "   ·   ".join(bill), 13, bold=True)
    left, width = 12, WIDTH - 24
    mark = left + width / 2
    canvas.rect(left, 215, width, 12, fill=WASH, stroke=RULE, width=1)
    canvas.rect(left, 215, min(width * share / 2, width), 12, fill=BLUE, stroke=None)
    canvas.path([(mark, 211), (mark, 232)], stroke=INK, width=2)
    same = "the same bytes" if abs(share - 1) <= NEAR else f"{percent(share)} of its parameters"
    canvas.text(mark, 247, f"all-linear, r = 8: {same}", 12, INK, "middle")
    return f"{'; '.join(bill)}; beside all-linear at r = 8: {same}."
