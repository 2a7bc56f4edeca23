"""The picture behind the SVD: inputs of length 1 are a circle, and a matrix sends the circle to an ellipse. Chapter 01."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lora_edu.plots.axes import Axes, number
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, INK, MUTED, RULE, VERMILION

Vector = Sequence[float]
Matrix = Sequence[Vector]
SIDE, GAP, MARGIN = 174, 18, 4
STEPS = 72


def ellipses(U: Matrix, Vh: Matrix, spectra: Mapping[str, Vector]) -> Canvas:
    """The unit circle with v₁ and v₂, then for each of `spectra` where U diag(σ) Vh sends it, with σ₁u₁ and σ₂u₂.

    Args:
        U, Vh: (2, 2), rows of numbers, as `torch.linalg.svd` gives them (`.tolist()`).
        spectra: what to call the matrix → its two singular values, large to small.
    """
    reach = 1.25 * max(1.0, *(max(values) for values in spectra.values()))
    canvas = Canvas((SIDE + GAP) * (1 + len(spectra)) - GAP + 2 * MARGIN, SIDE + 56)
    v1, v2 = Vh
    u1, u2 = ([row[i] for row in U] for i in (0, 1))
    circle = [_along(v1, math.cos(t), v2, math.sin(t)) for t in _angles()]
    _panel(canvas, MARGIN, reach, "inputs x of length 1", "v₁ and v₂ listen", circle, {"v₁": v1, "v₂": v2})
    for column, (name, (s1, s2)) in enumerate(spectra.items(), 1):
        outputs = [_along(u1, s1 * math.cos(t), u2, s2 * math.sin(t)) for t in _angles()]
        arrows = {"σ₁u₁": [s1 * x for x in u1], "σ₂u₂": [s2 * x for x in u2]}
        said = f"σ₁ = {number(round(s1, 2))}, σ₂ = {number(round(s2, 2))}"
        _panel(canvas, MARGIN + column * (SIDE + GAP), reach, name, said, outputs, arrows)
    shapes = "; ".join(
        f"{name}: half-lengths {number(round(s1, 2))} and {number(round(s2, 2))}" for name, (s1, s2) in spectra.items()
    )
    canvas.alt = (
        "Left, the circle of all inputs of length 1, with v1 and v2 at right angles. Beside it, the ellipse that each "
        f"matrix makes of it, its half-axes σ1 u1 and σ2 u2 drawn as arrows. {shapes}. Where σ2 is 0 the ellipse is a line."
    )
    return canvas


def _angles() -> list[float]:
    return [2 * math.pi * step / STEPS for step in range(STEPS + 1)]


def _along(p: Vector, s: float, q: Vector, t: float) -> list[float]:
    return [s * x + t * y for x, y in zip(p, q)]


def _panel(
    canvas: Canvas,
    left: float,
    reach: float,
    title: str,
    note: str,
    curve: list[list[float]],
    arrows: Mapping[str, Vector],
) -> None:
    axes = Axes(canvas, (left, 26, SIDE, SIDE), (-reach, reach), (-reach, reach))
    canvas.rect(left, 26, SIDE, SIDE, stroke=RULE, width=1)
    canvas.text(left, 17, title, 13, bold=True)
    canvas.text(left, 26 + SIDE + 20, note, 12, MUTED)
    for start, end in pairwise(curve):
        canvas.path([axes.at(*start), axes.at(*end)], stroke=INK, width=1.4)
    for (name, vector), (colour, dash) in zip(arrows.items(), ((BLUE, ()), (VERMILION, (5, 3)))):
        length = math.hypot(*vector)
        if length < 1e-6:
            continue  # a direction with σ = 0 speaks nothing: there is no arrow to draw
        canvas.path([axes.at(0, 0), axes.at(*vector)], stroke=colour, width=3, dash=dash, arrow=True)
        x, y = axes.at(*(c * (1 + 0.16 * reach / length) for c in vector))
        x, y = min(max(x, left + 16), left + SIDE - 16), min(max(y, 40), 20 + SIDE)
        canvas.text(x, y + 4, name, 12, INK, "middle", bold=True, halo=True)
