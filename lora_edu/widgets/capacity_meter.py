"""Chapter 09: how many of your rows would an adapter have room for, if it had to learn them by heart?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ipywidgets

from lora_edu.errors import DataError
from lora_edu.experiments.capacity import SPOTS, BitsEach, Held, bits_each, capacities, free_in_model
from lora_edu.plots.axes import Axes, number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, VERMILION
from lora_edu.widgets.base import WIDTH, State, Widget, choice

RANKS = tuple(2**k for k in range(9))
ROWS = tuple(m * 10**k for k in range(1, 7) for m in (1, 2, 5))
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SURPRISES = (
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
)  # bits a token; 16 is a token out of 65,536 that nothing foretells
YLIM = (1e2, 1e12)
SCALES = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))


@dataclass(frozen=True)
class Room:
    """What an adapter has room for and what is asked of it, in bits; `budgets` is one of each of `RANKS`."""

    free: int
    need: float
    budgets: tuple[BitsEach, ...]

    def at(self, r: int) -> BitsEach:
        return self.budgets[RANKS.index(r)]

    def smallest(self, which: str) -> int | None:
        """The smallest rank whose budget, by the `mean`, `least` or `most` bits a free number, covers the need."""
        return next((r for r, each in zip(RANKS, self.budgets) if getattr(each, which) >= self.need), None)


class CapacityMeter(Widget):
    """Bits that an adapter has room for, against the bits of the answers it is to learn by heart. Chapter 09.

    Args:
        held: what was measured (`capacities()`); by default the stored sweep.
        measured: names of tasks with the base's loss on their answers, in bits a token, for the control that says how surprising a token is.

    Raises DataError where nothing was measured.
    """

    title = "The capacity meter"
    question = "Your answers, learnt by heart, word for word: what is the smallest rank with room for all of them? When do rows fill it, when tokens?"
    computes_on = ("model", "spot", "rows", "tokens", "surprise", "r")

    def __init__(self, held: Sequence[Held] | None = None, measured: Mapping[str, float] | None = None) -> None:
        held = capacities() if held is None else list(held)
        if not held or not all(len(each.bits) for each in held):
            raise DataError("the capacity meter needs a measurement: make it with `lora-edu sweep capacity`")
        self.each, self.steps = bits_each(held), held[0].steps
        self.widths = sorted({each.width for each in held})
        marks = {value: number(value) for value in SURPRISES} | {
            value: f"{value:.2f}: {name}, the base" for name, value in (measured or {}).items()
        }
        super().__init__(
            model=choice("model", ["smollm2-135m", "llama-2-7b"]),
            spot=choice("adapter on", list(SPOTS)),
            r=ipywidgets.SelectionSlider(options=RANKS, value=8, description="rank r"),
            rows=ipywidgets.SelectionSlider(options=[(f"{n:,}", n) for n in ROWS], value=1000, description="rows"),
            tokens=ipywidgets.SelectionSlider(options=TOKENS, value=20, description="answer tokens a row"),
            surprise=ipywidgets.SelectionSlider(
                options=[(marks[value], value) for value in sorted(marks)],
                value=2.0,
                description="bits a token, to the base",
                layout={"width": "420px"},
            ),
        )

    def compute(self, state: State) -> Room:
        free = [free_in_model(state["model"], state["spot"], r) for r in RANKS]
        budgets = tuple(
            BitsEach(*(n * bits for bits in (self.each.mean, self.each.least, self.each.most))) for n in free
        )
        need = state["rows"] * state["tokens"] * state["surprise"]
        return Room(free[RANKS.index(state["r"])], need, budgets)

    def draw(self, state: State, result: Room) -> Canvas:
        canvas, here = Canvas(WIDTH, 416), result.at(state["r"])
        each = f"{self.each.mean:.2f} ({self.each.least:.2f} to {self.each.most:.2f})"
        budget = f"{_many(here.mean)} bits ({_range(here)})"
        need = f"{state['rows']:,} × {state['tokens']} × {number(state['surprise'])} = {_many(result.need)} bits"
        verdict, smallest = _verdict(result, here), _smallest(result)
        lines = [
            ("Room", 15, INK, True), (f"{_many(result.free)} free numbers", 13, INK, False),
            (f"× {each} bits each", 13, INK, False), (f"= {budget}", 13, BLUE, True), ("", 8, INK, False),
            ("Asked for", 15, INK, True), ("rows × tokens × bits a token", 12, MUTED, False), (need, 12, VERMILION, True),
            ("", 8, INK, False), (verdict, 15, INK, True), *((line, 13, INK, False) for line in smallest),
        ]  # fmt: skip
        y = 36.0
        for text, size, colour, bold in lines:
            canvas.text(440, y, text, size, colour, bold=bold)
            y += size + 9
        widths = " and ".join(map(str, self.widths))
        said = (
            f"What this is not: a bound, or a promise. Bits each were measured with random labels, on nets of width {widths} and after",
            f"{self.steps:,} steps on all rows at once; fewer steps fill less. Answers with a rule in them cost fewer bits than their tokens say,",
            "and to learn by heart is seldom what is wanted.",
        )
        for row, text in enumerate(said):
            canvas.text(8, 372 + 17 * row, text, 11, MUTED)
        self._draw_budget(canvas, state, result)
        canvas.alt = (
            f"An adapter of rank {state['r']} on {state['spot']} of {state['model']} has {result.free:,} free numbers. At {each} bits each it has "
            f"room for {budget}. Asked for are {need}. {verdict} {' '.join(smallest)} {' '.join(said)}"
        )
        return canvas

    def _draw_budget(self, canvas: Canvas, state: State, result: Room) -> None:
        """Budgets over the rank with their spread, the need as a level, and a dot where the controls stand."""
        axes = Axes(canvas, (84, 40, 318, 280), (RANKS[0], RANKS[-1]), YLIM, xlog=True, ylog=True)
        for bits in (10.0**k for k in range(3, 12, 2)):
            canvas.path([axes.at(r, bits) for r in (RANKS[0], RANKS[-1])], stroke=RULE, width=0.6, opacity=0.6)
            canvas.text(78, axes.y(bits) + 4, _many(bits), 11, MUTED, "end")
        axes.frame(RANKS[::2], (), "rank r (log)", "bits (log)")
        band = [axes.at(r, each.most) for r, each in zip(RANKS, result.budgets)]
        band += [axes.at(r, each.least) for r, each in reversed(list(zip(RANKS, result.budgets)))]
        canvas.path(band, stroke=None, fill=BLUE, opacity=0.25, closed=True)
        axes.line(RANKS, [each.mean for each in result.budgets], BLUE, 2.5)
        axes.line(RANKS[:: len(RANKS) - 1], [result.need] * 2, VERMILION, 2, dash=(7, 4))
        level = axes.y(min(max(result.need, YLIM[0]), YLIM[1]))
        canvas.text(94, level - 6, "asked for", 12, VERMILION, halo=True)
        canvas.text(axes.x(RANKS[-1]) - 4, axes.y(result.budgets[-1].mean) + 20, "room", 12, BLUE, "end", halo=True)
        canvas.dot(*axes.at(state["r"], result.at(state["r"]).mean), 6, BLUE, INK, 2)


def _verdict(result: Room, here: BitsEach) -> str:
    share = result.need / here.mean
    said = f"{100 * share:,.0f} %" if share >= 0.095 else f"{100 * share:.2g} %" if share >= 1e-4 else "under 0.01 %"
    if result.need <= here.least:
        return f"Room enough: {said} used."
    return f"Too much: {said} of the room." if result.need > here.most else f"On the edge: {said} of the room."


def _smallest(result: Room) -> tuple[str, ...]:
    """A line, or two where the least that was measured asks for a higher rank."""
    mean, sure = result.smallest("mean"), result.smallest("least")
    if mean is None:
        return (f"No rank up to {RANKS[-1]} has room for it.",)
    if mean == sure:
        return (f"The smallest rank with room: r = {mean}.",)
    return (
        f"The smallest rank with room: r = {mean};",
        f"by the least bits measured: {f'r = {sure}' if sure else 'none'}.",
    )


def _many(count: float) -> str:
    """ "2.3 million", with three digits."""
    scale, name = _scale(count)
    return f"{count / scale:.3g} {name}" if name else number(count)


def _range(here: BitsEach) -> str:
    """ "2.2 to 2.4 million"."""
    scale, name = _scale(here.mean)
    return f"{here.least / scale:.3g} to {here.most / scale:.3g} {name}".rstrip()


def _scale(count: float) -> tuple[float, str]:
    return next((each for each in SCALES if count >= 0.9995 * each[0]), (1.0, ""))
