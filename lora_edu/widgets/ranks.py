"""Chapter 01: one rank slider on three matrices: a photograph, a weight matrix and the change that training made to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ipywidgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lora_edu.linalg import eckart_young_error, truncated_svd
from lora_edu.plots.axes import Axes, decades, percent
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import CYCLE, DASHES, INK, MUTED, heatmap
from lora_edu.training.memory.ledger import megabytes
from lora_edu.widgets.base import WIDTH, State, Widget

RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 576, 768, 1024, 1536, 2048)
SHOWN = 224  # a matrix is shown by its top left SHOWN × SHOWN entries, one a pixel
LOWEST = 1e-3  # where the logarithmic axis ends


def photograph() -> Tensor:
    """A grey photograph as a matrix (256, 256) of brightnesses, 0 (black) to 1 (white).

    It shows Rear Admiral Grace Hopper, who wrote one of the first compilers: a U.S. Navy photograph, public domain, that
    comes with matplotlib.
    """
    from matplotlib.cbook import get_sample_data

    portrait = Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))).convert("L")
    face = portrait.crop((76, 10, 446, 380)).resize((256, 256), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(face, dtype=np.float32) / 255)


@dataclass(frozen=True)
class Spectrum:
    """One matrix with its singular value decomposition, made once; `paint` turns entries into pixels."""

    name: str
    matrix: Tensor
    U: Tensor
    S: Tensor
    Vh: Tensor
    is_picture: bool

    @classmethod
    def of(cls, name: str, matrix: Tensor, is_picture: bool = False) -> Spectrum:
        return cls(name, matrix, *truncated_svd(matrix), is_picture)

    def reconstruction(self, r: int) -> Tensor:
        """The visible part of the best approximation of rank r: at most (SHOWN, SHOWN), or a picture whole."""
        rows, columns = self.matrix.shape if self.is_picture else (SHOWN, SHOWN)
        return (self.U[:rows, :r] * self.S[:r]) @ self.Vh[:r, :columns]

    def paint(self, entries: Tensor) -> np.ndarray:
        if self.is_picture:
            return (entries.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return heatmap(entries.numpy(), limit=float(1.5 * self.matrix.std()))


@dataclass(frozen=True)
class Kept:
    """What is left of one matrix at rank r."""

    spectrum: Spectrum
    r: int
    pixels: np.ndarray
    error: float  # ‖M − M_r‖ / ‖M‖
    bytes_kept: int
    bytes_full: int


class RankSlider(Widget):
    """How much of a matrix do its first r directions hold? Chapter 01.

    Args:
        matrices: name → (m, n), up to three; a photograph comes first unless `with_photograph` is off. Their SVDs are
            made once, here.

    Raises:
        ValueError: more than three columns, or none.
    """

    title = "How many directions does it take?"
    question = "One rank for all three: which of them is low-rank, which is not, and where does each curve bend?"
    computes_on = ("r",)

    def __init__(self, matrices: Mapping[str, Tensor], with_photograph: bool = True) -> None:
        pictures = [Spectrum.of("a photograph", photograph(), is_picture=True)] if with_photograph else []
        self.spectra = pictures + [Spectrum.of(name, matrix) for name, matrix in matrices.items()]
        if not 1 <= len(self.spectra) <= 3:
            raise ValueError(f"{len(self.spectra)} columns do not fit: give one to three, the photograph included")
        largest = max(len(spectrum.S) for spectrum in self.spectra)
        ranks = [r for r in RANKS if r < largest] + [largest]
        super().__init__(
            r=ipywidgets.SelectionSlider(options=ranks, value=8 if 8 in ranks else ranks[0], description="rank r")
        )
        self.controls["r"].layout.width = "420px"

    def compute(self, state: State) -> list[Kept]:
        return [_keep(spectrum, min(state["r"], len(spectrum.S))) for spectrum in self.spectra]

    def draw(self, state: State, result: list[Kept]) -> Canvas:
        canvas = Canvas(WIDTH, 520)
        for column, kept in enumerate(result):
            _draw_kept(canvas, 12 + 250 * column, kept, column)
        _draw_curves(canvas, self.spectra, state["r"])
        canvas.alt = (
            f"At rank {state['r']}: "
            + "; ".join(
                f"{kept.spectrum.name} ({kept.spectrum.matrix.shape[0]} by {kept.spectrum.matrix.shape[1]}) keeps "
                f"{megabytes(kept.bytes_kept)} of {megabytes(kept.bytes_full)} with a relative error of {percent(kept.error)}"
                for kept in result
            )
            + ". Below, the singular values of each on a logarithmic axis, and the relative error against the rank."
        )
        return canvas


def _keep(spectrum: Spectrum, r: int) -> Kept:
    (m, n), S = spectrum.matrix.shape, spectrum.S
    pixels = spectrum.paint(spectrum.reconstruction(r))
    return Kept(spectrum, r, pixels, eckart_young_error(S, r), 4 * r * (m + n), 4 * m * n)


def _draw_kept(canvas: Canvas, x: float, kept: Kept, column: int) -> None:
    m, n = kept.spectrum.matrix.shape
    colour = CYCLE[column]
    canvas.path([(x, 14), (x + 24, 14)], stroke=colour, width=3, dash=DASHES[column])
    canvas.text(x + 30, 18, kept.spectrum.name, 13, bold=True)
    h, w = kept.pixels.shape[:2]
    side = SHOWN / max(h, w)
    canvas.image(x, 28, w * side, h * side, kept.pixels, smooth=kept.spectrum.is_picture)
    canvas.rect(x, 28, w * side, h * side, stroke=MUTED, width=1)
    part = "" if kept.spectrum.is_picture or max(m, n) <= SHOWN else f", top left {w} × {h} shown"
    canvas.text(x, 268, f"{m} × {n}{part}", 11, MUTED)
    canvas.text(x, 286, f"error {percent(kept.error)}", 13, bold=True)
    note = "" if kept.bytes_kept < kept.bytes_full else ": no saving"
    canvas.text(x, 303, f"{megabytes(kept.bytes_kept)} of {megabytes(kept.bytes_full)}{note}", 12)


def _draw_curves(canvas: Canvas, spectra: list[Spectrum], r: int) -> None:
    longest = max(len(spectrum.S) for spectrum in spectra)
    ticks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if k <= longest]
    values = Axes(canvas, (44, 348, 320, 132), (1, longest), (LOWEST, 1), xlog=True, ylog=True)
    values.frame(ticks, decades(LOWEST, 1), "index i (log)", "singular value σᵢ / σ₁ (log)")
    errors = Axes(canvas, (424, 348, 320, 132), (1, longest), (0, 1), xlog=True)
    errors.frame(ticks, (0, 0.5, 1), "rank r (log)", "relative error ‖M − Mᵣ‖ / ‖M‖")
    for column, spectrum in enumerate(spectra):
        colour, dash = CYCLE[column], DASHES[column]
        S = spectrum.S / spectrum.S[0]
        # Drawn down to the floor and no further: below it is rounding.
        above = int((S >= LOWEST).sum())
        values.line(range(1, above + 1), S[:above].tolist(), colour, dash=dash)
        if above < len(S):
            values.line([above, above + 1], [float(S[above - 1]), LOWEST], colour, dash=dash)
        errors.line(range(1, len(S) + 1), _errors(spectrum.S), colour, dash=dash)
        at = min(r, len(S))
        for axes, y in ((values, max(float(S[at - 1]), LOWEST)), (errors, eckart_young_error(spectrum.S, at))):
            canvas.dot(axes.x(at), axes.y(y), 4.5, colour, INK, 1.2)
    for axes in (values, errors):
        axes.rule_at(r)


def _errors(S: Tensor) -> list[float]:
    """`eckart_young_error` at every rank 1 … len(S), in one pass."""
    tail = S.double().square().flip(0).cumsum(0).flip(0)  # Σ_{i ≥ k} σ_i²
    return (torch.cat([tail[1:], tail.new_zeros(1)]) / tail[0]).sqrt().tolist()
