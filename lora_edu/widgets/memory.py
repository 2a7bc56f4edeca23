"""Chapter 00: what training keeps in memory, full fine-tuning against LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import ipywidgets
import torch
from torch import nn

from lora_edu.adapters.config import LoRAConfig
from lora_edu.plots.axes import Axes, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, RULE, VERMILION
from lora_edu.training.memory.ledger import SHAPES, megabytes, predict_memory, sketch
from lora_edu.widgets.base import WIDTH, State, Widget, choice

PARTS = {"weights": BLUE, "gradients": ORANGE, "optimizer": VERMILION, "activations": GREEN}
RANKS = (1, 8, 32, 128)
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MACHINES = {"8 GB": 8e9, "16 GB": 16e9, "24 GB": 24e9, "48 GB": 48e9, "80 GB": 80e9}


Entries = Mapping[str, int]  # bytes by part


@dataclass(frozen=True)
class Bars:
    full: Entries
    lora: Entries


@cache
def _sketched(shape: str, layers: int, dtype: torch.dtype, r: int | None) -> nn.Module:
    """A model of so many layers without content, all-linear LoRA of rank `r` or none."""
    from transformers import LlamaConfig

    config = LlamaConfig(**{**SHAPES[shape], "num_hidden_layers": layers})
    return sketch(config, None if r is None else LoRAConfig(r=r), dtype)


@cache
def _entries(shape: str, dtype: str, r: int | None, rows: int, length: int, checkpointing: bool) -> Entries:
    """The ledger's entries. All layers are alike, so each entry grows equally from layer to layer: one and two layers tell of all
    (a sketch of all 32 takes half a second, and a test compares the two). Kept, so that a moved rank does not work out the rest again."""
    one, two = (
        predict_memory(
            _sketched(shape, layers, DTYPES[dtype], r), rows, length, gradient_checkpointing=checkpointing
        ).entries()
        for layers in (1, 2)
    )
    more = SHAPES[shape]["num_hidden_layers"] - 1
    return {part: size + more * (two[part] - size) for part, size in one.items()}


class MemoryBars(Widget):
    """Weights, gradients, AdamW's state and activations as `memory.predict` works them out. Chapter 00.

    Args:
        shapes: names in `memory.SHAPES`, a button each.
        batch_size: rows a training step takes.
    """

    title = "What training keeps in memory"
    question = "Which of the four parts does LoRA all but remove, which stay, and when does the rank matter?"
    computes_on = ("shape", "r", "length", "dtype", "checkpointing")

    def __init__(self, shapes: Sequence[str] = ("smollm2-135m", "llama-2-7b"), batch_size: int = 4) -> None:
        self.batch_size = batch_size
        super().__init__(
            r=ipywidgets.SelectionSlider(options=RANKS, value=8, description="rank r"),
            length=ipywidgets.SelectionSlider(options=LENGTHS, value=256, description=f"{batch_size} rows of … tokens"),
            shape=choice("model", list(shapes)),
            dtype=choice("weights in", list(DTYPES)),
            checkpointing=ipywidgets.Checkbox(False, description="gradient checkpointing", indent=False),
        )

    def compute(self, state: State) -> Bars:
        rest = (self.batch_size, state["length"], state["checkpointing"])
        full, lora = (_entries(state["shape"], state["dtype"], r, *rest) for r in (None, state["r"]))
        return Bars(full, lora)

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
            canvas.text(axes.x(tick), 235, megabytes(int(tick)) if tick else "0", 11, MUTED, "middle")
        _draw_legend(canvas, rows)
        said = "; ".join(
            f"{name}: {megabytes(sum(parts.values()))} ("
            + ", ".join(f"{part} {megabytes(parts[part])}" for part in PARTS)
            + ")"
            for name, parts in rows.items()
        )
        canvas.alt = f"Two stacked bars of memory for {state['shape']}. {said}."
        return canvas


def _draw_machines(axes: Axes, most: float) -> None:
    """Dashed lines where the memory of common machines ends; those that the bars do not reach are left out."""
    last = -100.0
    for name, size in MACHINES.items():
        if size < most and axes.x(size) - last > 90:
            last = axes.x(size)
            axes.canvas.path([(last, 30), (last, 216)], stroke=INK, width=1, dash=(3, 4))
            axes.canvas.text(last, 22, f"{name} card", 11, MUTED, "middle")


def _draw_bar(axes: Axes, top: float, name: str, parts: Mapping[str, int]) -> None:
    axes.canvas.text(12, top - 7, name, 13, bold=True, halo=True)
    left = 0
    for part in PARTS:
        x, width = axes.x(left), axes.x(left + parts[part]) - axes.x(left)
        axes.canvas.rect(x, top, width, 40, fill=PARTS[part], stroke=PAPER, width=1 if width > 4 else 0)
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
    axes.canvas.text(axes.x(left) + 8, top + 25, megabytes(left), 14, bold=True, halo=True)


def _draw_legend(canvas: Canvas, rows: Mapping[str, Mapping[str, int]]) -> None:
    full, lora = rows.values()
    for column, part in enumerate(PARTS):
        x = 12 + 185 * column
        canvas.rect(x, 256, 14, 14, fill=PARTS[part], stroke=INK, width=0.8)
        canvas.text(x + 20, 268, part, 12, bold=True)
        canvas.text(x + 20, 286, f"{megabytes(full[part])} → {megabytes(lora[part])}", 12)
