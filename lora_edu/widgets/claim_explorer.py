"""Chapter 16: what popular pages say, by topic and verdict, with the source and the cell that tests each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import ipywidgets

from lora_edu.errors import DataError
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, RULE, VERMILION
from lora_edu.plots.raster import wrapped
from lora_edu.widgets.base import WIDTH, State, Widget, choice

ALL = "all"
SIGNS = {"correct": ("✓", GREEN), "misleading": ("≈", BLUE), "wrong": ("✗", VERMILION), "untestable": ("?", MUTED)}
LINES = 9  # rows of the list that are seen at once


class Row(Protocol):
    """What the explorer reads of a row."""

    @property
    def id(self) -> str: ...
    @property
    def page(self) -> str: ...
    @property
    def room(self) -> str: ...
    @property
    def said(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def breaks(self) -> str: ...
    @property
    def untestable(self) -> str: ...
    @property
    def tested_by(self) -> tuple[str, str] | None: ...


class ClaimExplorer(Widget):
    """Rows of a ledger, filtered by topic and verdict; the chosen one with its reason, source and test. Chapter 16.

    Args:
        rows: the ledger.
        rooms: what each topic is called on the page, in order; topics without a row are left out.

    Raises DataError for no row, a verdict that is none of `SIGNS`, or a topic that `rooms` does not name.
    """

    title = "The claim explorer"
    question = "Which topic has not one statement that is simply correct? And how many of all rows can nothing test?"
    computes_on = ("room", "verdict")

    def __init__(self, rows: Sequence[Row], rooms: Mapping[str, str]) -> None:
        self.rows, self.rooms = tuple(rows), dict(rooms)
        if not self.rows:
            raise DataError("the claim explorer needs rows")
        if odd := sorted(
            {each.verdict for each in self.rows} - set(SIGNS) | {each.room for each in self.rows} - set(rooms)
        ):
            raise DataError(f"the claim explorer knows no {', '.join(odd)}")
        there = {each.room for each in self.rows}
        named = [(title, name) for name, title in rooms.items() if name in there]
        super().__init__(
            room=choice("topic", [(ALL, ALL), *named]),
            verdict=choice("verdict", [ALL, *SIGNS]),
            row=ipywidgets.IntSlider(1, 1, len(self.rows), description="row", layout={"width": "350px"}),
        )

    def compute(self, state: State) -> tuple[Row, ...]:
        return tuple(
            each for each in self.rows if state["room"] in (ALL, each.room) and state["verdict"] in (ALL, each.verdict)
        )

    def _on_change(self, change: object = None) -> None:
        with self.reported():
            slider, most = self.controls["row"], max(1, len(self._result()))
            if slider.max != most:
                slider.value = min(slider.value, most)
                slider.max = most
        super()._on_change(change)

    def draw(self, state: State, result: tuple[Row, ...]) -> Canvas:
        canvas = Canvas(WIDTH, 452)
        count = Counter(each.verdict for each in result)
        said = ", ".join(f"{count[name]} {name}" for name in SIGNS if count[name]) or "none fits"
        where = "all topics" if state["room"] == ALL else self.rooms[state["room"]]
        canvas.text(8, 18, f"{where}: {len(result)} of {len(self.rows)} rows", 15, bold=True)
        canvas.text(WIDTH - 8, 18, said, 13, MUTED, "end")
        if not result:
            canvas.alt = f"{where}, verdict {state['verdict']}: no row of the ledger fits."
            return canvas
        chosen = min(state["row"], len(result)) - 1
        self._draw_list(canvas, result, chosen)
        canvas.alt = (
            f"{where}: {len(result)} of {len(self.rows)} rows: {said}. {self._draw_chosen(canvas, result[chosen])}"
        )
        return canvas

    def _draw_list(self, canvas: Canvas, rows: tuple[Row, ...], chosen: int) -> None:
        """The rows round the chosen one, a line each."""
        first = max(0, min(chosen - LINES // 2, len(rows) - LINES))
        for line, each in enumerate(rows[first : first + LINES]):
            y, (sign, colour) = 48 + 23 * line, SIGNS[each.verdict]
            if first + line == chosen:
                canvas.rect(4, y - 16, WIDTH - 8, 22, stroke=INK, width=1)
            canvas.text(14, y, sign, 14, colour, bold=True)
            canvas.text(34, y, each.id, 12, MUTED)
            head, *rest = wrapped(each.said, 13, WIDTH - 100)
            canvas.text(84, y, f"{head} …" if rest else head, 13)

    def _draw_chosen(self, canvas: Canvas, row: Row) -> str:
        """All of the chosen row, under the list; what it says, as one text."""
        top = 48 + 23 * LINES
        canvas.path([(4, top - 10), (WIDTH - 4, top - 10)], RULE, 1)
        sign, colour = SIGNS[row.verdict]
        tested = (
            f"chapter {row.tested_by[0]}, cell {row.tested_by[1]}" if row.tested_by else f"nothing: {row.untestable}"
        )
        parts = [
            (row.said, INK, True),
            (f"{sign} {row.verdict}: {row.why}", colour, False),
            (f"Source: {row.source}", INK, False),
            *([(f"Breaks: {row.breaks}", INK, False)] if row.breaks else []),
            (f"Tested by: {tested}", INK, False),
        ]
        y = top + 12
        for text, shade, bold in parts:
            for line in wrapped(text, 14 if bold else 13, WIDTH - 24):
                canvas.text(12, y, line, 14 if bold else 13, shade, bold=bold)
                y += 20
        return f"Row {row.id}: “{row.said}”. {row.verdict}: {row.why} Source: {row.source}. Tested by {tested}."
