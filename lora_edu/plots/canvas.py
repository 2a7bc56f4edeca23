"""A drawing that is made once and shown twice: as SVG that follows the page's theme, and as a PNG that stays behind.

matplotlib takes 150 ms to redraw, too slow under a slider; SVG text takes one. A `Canvas` records a handful of
primitives; `svg()` writes them for the browser and `png()` paints them with PIL for the reader without a kernel.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from PIL import Image

from lora_edu.plots.palette import INK, ON_PAGE, PAPER
from lora_edu.plots.primitives import Dot, Group, Path, Point, Primitive, Raster, Text, arrow_head


@dataclass
class Canvas:
    """A drawing of `width` × `height` pixels; y grows downwards. `alt` says in words what it shows."""

    width: float
    height: float
    alt: str = ""
    items: list[Primitive] = field(default_factory=list)

    def path(
        self,
        points: Sequence[Point],
        stroke: str | None = INK,
        width: float = 1.5,
        fill: str | None = None,
        dash: Sequence[float] = (),
        opacity: float = 1.0,
        closed: bool = False,
        arrow: bool = False,
    ) -> None:
        """A line through two points or more."""
        self.items.append(Path(tuple(points), stroke, width, fill, tuple(dash), opacity, closed, arrow))

    def rect(self, x: float, y: float, w: float, h: float, **style) -> None:
        """A rectangle by its top-left corner; `style` as in `path`."""
        self.path([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], closed=True, **style)

    def dot(
        self,
        x: float,
        y: float,
        radius: float = 4,
        fill: str | None = INK,
        stroke: str | None = None,
        width: float = 1.5,
        opacity: float = 1.0,
    ) -> None:
        self.items.append(Dot((x, y), radius, fill, stroke, width, opacity))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 13,
        colour: str = INK,
        anchor: str = "start",
        bold: bool = False,
        halo: bool = False,
    ) -> None:
        """One line of text; (x, y) is the end of its baseline that `anchor` names. `halo`: readable across lines."""
        self.items.append(Text((x, y), text, size, colour, anchor, bold, halo))

    def image(self, x: float, y: float, w: float, h: float, pixels: np.ndarray, smooth: bool = False) -> None:
        """Pixels, (h, w) grey, (h, w, 3) colour or (h, w, 4) with opacity, uint8, stretched over the box; sharp unless `smooth`."""
        self.items.append(Raster((x, y), (w, h), np.ascontiguousarray(pixels), smooth))

    def paste(self, x: float, y: float, other: Canvas) -> None:
        """Another drawing, its top-left corner at (x, y)."""
        self.items.append(Group((x, y), other))

    def svg(self) -> str:
        """The drawing for a live page: neutral colours follow the theme, a screen reader hears `alt`."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(self.height)}" role="img" '
            f'aria-label="{escape(self.alt, quote=True)}" style="width:100%;max-width:{_n(self.width)}px;height:auto;'
            f'font-family:var(--jp-ui-font-family, system-ui, sans-serif)">{"".join(map(_svg, self.items))}</svg>'
        )

    def png(self, scale: int = 2) -> bytes:
        """The drawing on white paper, `scale` pixels to a unit; the same bytes for the same drawing."""
        from lora_edu.plots.raster import paint

        return png_bytes(paint(self, scale).quantize(256))  # a palette: a third of the bytes, no difference to the eye


def png_bytes(image: Image.Image, compress_level: int = 6) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _paint(name: str, colour: str | None) -> str:
    return f' {name}="{ON_PAGE.get(colour, colour) if colour else "none"}"'


def _svg(item: Primitive) -> str:
    match item:
        case Path():
            return _svg_path(item)
        case Dot():
            (x, y) = item.centre
            return (
                f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(item.radius)}"{_paint("fill", item.fill)}'
                f'{_paint("stroke", item.stroke)} stroke-width="{_n(item.width)}" opacity="{_n(item.opacity)}"/>'
            )
        case Text():
            (x, y) = item.at
            halo = f'{_paint("stroke", PAPER)} stroke-width="4" paint-order="stroke"' if item.halo else ""
            weight = ' font-weight="600"' if item.bold else ""
            return (
                f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(item.size)}" text-anchor="{item.anchor}"'
                f"{_paint('fill', item.colour)}{weight}{halo}>{escape(item.text)}</text>"
            )
        case Raster():
            code = base64.b64encode(png_bytes(Image.fromarray(item.pixels), compress_level=1)).decode()
            (x, y), (w, h) = item.corner, item.size
            look = "" if item.smooth else ' style="image-rendering:pixelated"'
            return (
                f'<image x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" preserveAspectRatio="none"{look} '
                f'href="data:image/png;base64,{code}"/>'
            )
        case Group():
            (x, y) = item.corner
            return f'<g transform="translate({_n(x)} {_n(y)})">{"".join(map(_svg, item.canvas.items))}</g>'


def _svg_path(item: Path) -> str:
    corners = " ".join(f"{_n(x)},{_n(y)}" for x, y in item.points)
    dash = f' stroke-dasharray="{",".join(map(_n, item.dash))}"' if item.dash else ""
    tag = "polygon" if item.closed else "polyline"
    line = (
        f'<{tag} points="{corners}"{_paint("fill", item.fill)}{_paint("stroke", item.stroke)} '
        f'stroke-width="{_n(item.width)}" stroke-linejoin="round" opacity="{_n(item.opacity)}"{dash}/>'
    )
    if item.arrow:
        head = " ".join(f"{_n(x)},{_n(y)}" for x, y in arrow_head(item))
        line += f'<polygon points="{head}"{_paint("fill", item.stroke)} opacity="{_n(item.opacity)}"/>'
    return line
