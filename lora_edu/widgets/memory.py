"""Chapter 00: what training keeps in memory, full fine-tuning against LoRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets

from lora_edu.plots import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, RULE, VERMILION, Axes, Canvas, file_size, ticks
from lora_edu.widgets.base import WIDTH, State, Widget, choice

Ledger = Callable[[str, int | None], Mapping[str, float]]
PARTS = ("weights", "gradients", "optimiser", "activations")
COLOURS = dict(zip(PARTS, (BLUE, ORANGE, VERMILION, GREEN)))
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MACHINES = {"8 GB": 8e9, "16 GB": 16e9, "24 GB": 24e9, "48 GB": 48e9, "80 GB": 80e9}


@dataclass(frozen=True)
class Bars:
    full: Mapping[str, float]  # part → bytes
    lora: Mapping[str, float]


class MemoryBars(Widget):
    """Weights, gradients, optimiser state and activations in bytes, for a model's size and a rank. Chapter 00.

    Args:
        ledger: (size, rank) → bytes for each of "weights", "gradients", "optimiser" and "activations"; rank None means
            full fine-tuning.
        sizes: the models the ledger knows, in the order of the buttons.

    Raises:
        ValueError: the ledger leaves out a part or names one that is not drawn.
    """

    title = "What training keeps in memory"
    question = "Which of the four parts does LoRA make nearly vanish, which stay, and does the rank matter?"
    computes_on = ("size", "r")

    def __init__(self, ledger: Ledger, sizes: Sequence[str]) -> None:
        self.ledger = ledger
        super().__init__(
            size=choice("model", list(sizes)),
            r=ipywidgets.SelectionSlider(options=RANKS, value=8, description="rank r"),
        )

    def compute(self, state: State) -> Bars:
        return Bars(self._checked(state["size"], None), self._checked(state["size"], state["r"]))

    def _checked(self, size: str, r: int | None) -> Mapping[str, float]:
        parts = self.ledger(size, r)
        if set(parts) != set(PARTS):
            raise ValueError(f"the ledger for {size!r} has the parts {sorted(parts)}; expected {sorted(PARTS)}")
        return parts

    def draw(self, state: State, result: Bars) -> Canvas:
        canvas = Canvas(WIDTH, 300)
        rows = {"full fine-tuning": result.full, f"LoRA, r = {state['r']}": result.lora}
        most = max(sum(parts.values()) for parts in rows.values())
        axes = Axes(canvas, (12, 40, WIDTH - 110, 176), (0, 1.02 * most), (0, 1))
        _draw_machines(axes, most)
        for row, (name, parts) in enumerate(rows.items()):
            _draw_bar(axes, 62 + 84 * row, name, parts)
        axes.canvas.path([(12, 216), (WIDTH - 98, 216)], stroke=RULE, width=1)
        for tick in ticks(0, most, 5):
            canvas.path([(axes.x(tick), 216), (axes.x(tick), 221)], stroke=RULE, width=1)
            canvas.text(axes.x(tick), 235, file_size(tick) if tick else "0", 11, MUTED, "middle")
        _draw_legend(canvas, rows)
        said = "; ".join(
            f"{name}: {file_size(sum(parts.values()))} ("
            + ", ".join(f"{part} {file_size(parts[part])}" for part in PARTS)
            + ")"
            for name, parts in rows.items()
        )
        canvas.alt = f"Two stacked bars of memory for the {state['size']} model. {said}."
        return canvas


def _draw_machines(axes: Axes, most: float) -> None:
    """Dashed lines where the memory of common machines ends; those that the bars do not reach are left out."""
    last = -100.0
    for name, size in MACHINES.items():
        if size < most and axes.x(size) - last > 90:
            last = axes.x(size)
            axes.canvas.path([(last, 30), (last, 216)], stroke=INK, width=1, dash=(3, 4))
            axes.canvas.text(last, 22, f"a {name} card", 11, MUTED, "middle")


def _draw_bar(axes: Axes, top: float, name: str, parts: Mapping[str, float]) -> None:
    axes.canvas.text(12, top - 7, name, 13, bold=True, halo=True)
    left = 0.0
    for part in PARTS:
        x, width = axes.x(left), axes.x(left + parts[part]) - axes.x(left)
        axes.canvas.rect(x, top, width, 40, fill=COLOURS[part], stroke=PAPER, width=1 if width > 4 else 0)
        if width > 9 * len(part):
            axes.canvas.rect(
                x + width / 2 - 4.2 * len(part),
                top + 11,
                8.4 * len(part),
                18,
                fill=PAPER,
                stroke=None,
                opacity=0.85,
                width=0,
            )
            axes.canvas.text(x + width / 2, top + 24, part, 12, INK, "middle")
        left += parts[part]
    axes.canvas.text(axes.x(left) + 8, top + 25, file_size(left), 14, bold=True, halo=True)


def _draw_legend(canvas: Canvas, rows: Mapping[str, Mapping[str, float]]) -> None:
    full, lora = rows.values()
    for column, part in enumerate(PARTS):
        x = 12 + 185 * column
        canvas.rect(x, 256, 14, 14, fill=COLOURS[part], stroke=INK, width=0.8)
        canvas.text(x + 20, 268, part, 12, bold=True)
        canvas.text(x + 20, 286, f"{file_size(full[part])} → {file_size(lora[part])}", 12)
