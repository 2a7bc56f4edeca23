"""What a drawing is made of: lines, dots, text, pixels, and drawings within it. `canvas` writes them as SVG, `raster` paints them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Point = tuple[float, float]


@dataclass(frozen=True)
class Path:
    """A line through points; closed, it is a polygon. `arrow` puts a head on the last point."""

    points: tuple[Point, ...]
    stroke: str | None
    width: float
    fill: str | None
    dash: tuple[float, ...]
    opacity: float
    closed: bool
    arrow: bool


@dataclass(frozen=True)
class Dot:
    centre: Point
    radius: float
    fill: str | None
    stroke: str | None
    width: float
    opacity: float


@dataclass(frozen=True)
class Text:
    at: Point
    text: str
    size: float
    colour: str
    anchor: str  # start, middle or end
    bold: bool
    halo: bool  # a rim of paper, where text stands on lines


@dataclass(frozen=True)
class Raster:
    corner: Point
    size: Point
    pixels: np.ndarray  # (h, w) grey, (h, w, 3) or (h, w, 4) with opacity; uint8
    smooth: bool


@dataclass(frozen=True)
class Group:
    corner: Point
    canvas: Drawing


Primitive = Path | Dot | Text | Raster | Group


class Drawing(Protocol):
    """What can be painted: primitives on `width` × `height` pixels, y growing downwards."""

    width: float
    height: float
    items: list[Primitive]


def arrow_head(item: Path) -> list[Point]:
    """The three corners of an arrow's head; no corner where the last segment has no length to point along."""
    (x0, y0), (x1, y1) = item.points[-2:]
    length = float(np.hypot(x1 - x0, y1 - y0))
    if length < 1e-6:
        return []
    size = min(3.0 + 2.6 * item.width, length)
    ux, uy = (x1 - x0) / length * size, (y1 - y0) / length * size
    return [(x1, y1), (x1 - ux - uy * 0.45, y1 - uy + ux * 0.45), (x1 - ux + uy * 0.45, y1 - uy - ux * 0.45)]
