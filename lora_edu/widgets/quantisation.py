"""Chapter 11: one row of weights sent to the few numbers of four bits, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets
import torch
from torch import Tensor

from lora_edu.errors import DataError
from lora_edu.models.quantized.blockwise import dequantize_blockwise, quantize_blockwise
from lora_edu.models.quantized.codebooks import CODEBOOKS
from lora_edu.models.quantized.linear import Quantization
from lora_edu.plots.axes import Axes, number, percent, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, GREEN, INK, MUTED, RULE, VERMILION
from lora_edu.widgets.base import WIDTH, State, Widget, choice

BLOCKS = (8, 16, 32, 64, 128, 256)
OUTLIERS = (1, 4, 8, 16, 32, 64)
PLACE = 5  # of the outlier in the row
KINDS = {"INT4": "int4", "NF4": "nf4"}  # the first is shown first: chapter 11 has not met NF4 yet


@dataclass(frozen=True)
class Rounded:
    """The row, what four bits made of it, and the errors: of each block, and of all weights but the outlier."""

    weights: Tensor  # (n,)
    codes: Tensor  # (n,)
    back: Tensor  # (n,)
    absmax: Tensor  # (blocks,)
    by_block: Tensor  # (blocks,): ‖error‖/‖weights‖ of the block, the outlier not counted
    error: float  # the same of the whole row
    bits: float  # a weight, its share of the scale included


class QuantisationLine(Widget):
    """Block size, NF4 or INT4, and an outlier of chosen size → the codes and the error, on a number line. Chapter 11.

    Args:
        weights: at least 256 weights, of which the first 256 are taken; 256 draws of N(0, 1) · 0.05, if not given.

    Raises DataError for fewer weights, or such as are no finite numbers.
    """

    title = "The quantisation line"
    question = "Make one weight of this row an outlier. How many others lose their resolution by it, and what do smaller blocks cost that save them?"
    computes_on = ("kind", "block", "outlier")

    def __init__(self, weights: Tensor | None = None) -> None:
        if weights is None:
            weights = 0.05 * torch.randn(256, generator=torch.Generator().manual_seed(0))
        row = weights.detach().float().reshape(-1)[:256]
        if row.numel() < 256 or not bool(torch.isfinite(row).all()) or not bool(row.any()):
            raise DataError("the quantisation line needs 256 weights, finite and not all zero")
        self.row = row
        self.size = float(row.square().mean().sqrt())
        super().__init__(
            kind=choice("numbers", list(KINDS)),
            block=ipywidgets.SelectionSlider(options=[(str(b), b) for b in BLOCKS], value=64, description="block size"),
            outlier=ipywidgets.SelectionSlider(
                options=[("none", 1), *((f"{k} × the usual size", k) for k in OUTLIERS[1:])],
                value=1,
                description="outlier",
                layout={"width": "330px"},
            ),
        )

    def compute(self, state: State) -> Rounded:
        weights, block = self.row.clone(), state["block"]
        if state["outlier"] > 1:
            weights[PLACE] = state["outlier"] * self.size
        codebook = CODEBOOKS[KINDS[state["kind"]]]()
        codes, absmax = quantize_blockwise(weights, codebook, block)
        back = dequantize_blockwise(codes, absmax, codebook, block)
        counted = torch.ones_like(weights)
        counted[PLACE] = 0
        lost, had = (((each * counted).square()) for each in (back - weights, weights))
        return Rounded(
            weights, codes, back, absmax,
            (lost.view(-1, block).sum(1) / had.view(-1, block).sum(1).clamp(min=1e-30)).sqrt(),
            float((lost.sum() / had.sum()).sqrt()),
            Quantization(KINDS[state["kind"]], block, double=False).bits,
        )  # fmt: skip

    def draw(self, state: State, result: Rounded) -> Canvas:
        block, canvas = state["block"], Canvas(WIDTH, 400)
        first, used = result.weights[:block], sorted(set(result.codes[:block].tolist()))
        canvas.text(
            8, 18,
            f"{state['kind']} in blocks of {block}: {number(result.bits)} bits a weight, error {percent(result.error)} of the weights' size",
            15, bold=True,
        )  # fmt: skip
        canvas.text(8, 36, "(the outlier itself is not counted in any error)", 11, MUTED)
        self._draw_line(canvas, state, result)
        at = PLACE // block
        self._draw_blocks(canvas, result, at)
        others = result.by_block[torch.arange(len(result.by_block)) != at]
        rest = f", of the other blocks {percent(float(others.mean()))} on average" if len(others) else ""
        outlier = f"an outlier {state['outlier']} times the usual size" if state["outlier"] > 1 else "no outlier"
        canvas.alt = (
            f"{state['kind']} in blocks of {block}, {outlier}: {number(result.bits)} bits a weight, error {percent(result.error)}. A number "
            f"line shows the first block, {len(first)} weights from {number(float(first.min()))} to {number(float(first.max()))}, each sent "
            f"to the nearest of the block's numbers; {len(used)} of them are used. Bars show the error of each block: of the first "
            f"{percent(float(result.by_block[at]))}{rest}."
        )
        return canvas

    def _draw_line(self, canvas: Canvas, state: State, result: Rounded) -> None:
        """The first block: its weights above, the numbers that it has below, and where each weight goes."""
        block, top, low, high = state["block"], 66, 88, 142
        absmax = float(result.absmax[0])
        axes = Axes(canvas, (40, top, 700, 100), (-1.04 * absmax, 1.04 * absmax), (0, 1))
        levels = (CODEBOOKS[KINDS[state["kind"]]]() * absmax).tolist()
        used = set(result.codes[:block].tolist())
        for code, level in enumerate(levels):
            x = axes.x(level)
            canvas.path([(x, high), (x, high + 22)], BLUE if code in used else RULE, 2.5 if code in used else 1.5)
        for i, (weight, back) in enumerate(zip(result.weights[:block].tolist(), result.back[:block].tolist())):
            odd = i == PLACE and state["outlier"] > 1
            colour = VERMILION if odd else INK
            canvas.path([(axes.x(weight), low), (axes.x(back), high)], colour, 0.8, opacity=0.9 if odd else 0.35)
            canvas.dot(axes.x(weight), low, 4.5 if odd else 2.5, colour, opacity=1 if odd else 0.6)
        axes.frame(ticks(-absmax, absmax, 6), (), "weight", "")
        canvas.text(8, 58, f"the first block: {block} weights above, its {len(levels)} numbers below", 12)
        canvas.text(
            740, 58, f"{len(used)} of {len(levels)} used", 13, GREEN if len(used) > 8 else VERMILION, "end", True
        )

    def _draw_blocks(self, canvas: Canvas, result: Rounded, at: int) -> None:
        """The error of each block as a bar."""
        errors = result.by_block.tolist()
        highest = max(0.25, 1.1 * max(errors))
        axes = Axes(canvas, (40, 242, 700, 120), (0, len(errors)), (0, highest))
        axes.frame((), ticks(0, highest, 4), f"{len(errors)} blocks, in the order of the row", "")
        canvas.text(8, 232, "error of each block, as a share of its weights' size", 12)
        wide = 700 / len(errors)
        for i, error in enumerate(errors):
            (x, y), bottom = axes.at(i, error), axes.y(0)
            colour = VERMILION if i == at else BLUE
            canvas.rect(x + 0.1 * wide, y, 0.8 * wide, bottom - y, stroke=colour, fill=colour, width=1, opacity=0.75)
        canvas.text(
            axes.x(at) + 0.5 * wide,
            axes.y(min(errors[at], highest)) - 5,
            percent(errors[at]),
            12,
            VERMILION,
            "middle",
            True,
            True,
        )
