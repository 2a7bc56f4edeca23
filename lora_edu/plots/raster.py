"""A drawing painted with PIL: the still picture for whoever reads a notebook without a kernel."""

from functools import cache
from itertools import pairwise
from pathlib import Path as FilePath

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from lora_edu.plots.palette import PAPER, rgb
from lora_edu.plots.primitives import Dot, Drawing, Group, Path, Point, Raster, Text, arrow_head

_OVERSAMPLING = 2  # PIL draws hard edges: paint larger, then shrink


@cache
def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same letters (and bytes) on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(FilePath(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def wrapped(text: str, size: float, width: float) -> list[str]:
    """The text broken into lines of at most `width` pixels; a single longer word stays whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def paint(canvas: Drawing, scale: int = 2) -> Image.Image:
    """The drawing on white paper, (height·scale, width·scale) RGB."""
    zoom = scale * _OVERSAMPLING
    large = Image.new("RGB", (round(canvas.width * zoom), round(canvas.height * zoom)), rgb(PAPER))
    _Painter(large, zoom).paint(canvas, (0, 0))
    return large.reduce(_OVERSAMPLING)  # plain averages: equal pixels stay equal, and the file small


class _Painter:
    def __init__(self, image: Image.Image, zoom: float) -> None:
        self.image, self.zoom, self.pen = image, zoom, ImageDraw.Draw(image, "RGBA")

    def paint(self, canvas: Drawing, origin: Point) -> None:
        for item in canvas.items:
            match item:
                case Path():
                    self._path(item, origin)
                case Dot():
                    self._dot(item, origin)
                case Text():
                    self._text(item, origin)
                case Raster():
                    self._raster(item, origin)
                case Group():
                    self.paint(item.canvas, (origin[0] + item.corner[0], origin[1] + item.corner[1]))

    def _at(self, point: Point, origin: Point) -> Point:
        return (point[0] + origin[0]) * self.zoom, (point[1] + origin[1]) * self.zoom

    def _path(self, item: Path, origin: Point) -> None:
        points = [self._at(p, origin) for p in item.points]
        if item.fill:
            self.pen.polygon(points, fill=_rgba(item.fill, item.opacity))
        if item.stroke and item.width:
            line = [*points, points[0]] if item.closed else points
            width = max(1, round(item.width * self.zoom))
            ink = _rgba(item.stroke, item.opacity)
            if item.dash:
                for start, end in _dashes(line, [d * self.zoom for d in item.dash]):
                    self.pen.line([start, end], fill=ink, width=width)
            else:
                self.pen.line([*line, line[1]] if item.closed else line, fill=ink, width=width, joint="curve")
            if item.arrow and (head := arrow_head(item)):
                self.pen.polygon([self._at(p, origin) for p in head], fill=ink)

    def _dot(self, item: Dot, origin: Point) -> None:
        x, y = self._at(item.centre, origin)
        r = item.radius * self.zoom
        self.pen.ellipse(
            [x - r, y - r, x + r, y + r],
            fill=_rgba(item.fill, item.opacity) if item.fill else None,
            outline=_rgba(item.stroke, item.opacity) if item.stroke else None,
            width=max(1, round(item.width * self.zoom)),
        )

    def _text(self, item: Text, origin: Point) -> None:
        x, y = self._at(item.at, origin)
        letters = font(item.size * self.zoom, item.bold)
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[item.anchor]
        rim = round(2 * self.zoom) if item.halo else 0
        ink, paper = rgb(item.colour), rgb(PAPER)
        self.pen.text((x, y), item.text, ink, letters, anchor, stroke_width=rim, stroke_fill=paper)

    def _raster(self, item: Raster, origin: Point) -> None:
        x, y = self._at(item.corner, origin)
        box = (max(1, round(item.size[0] * self.zoom)), max(1, round(item.size[1] * self.zoom)))
        how = Image.Resampling.BICUBIC if item.smooth else Image.Resampling.NEAREST
        pixels = Image.fromarray(item.pixels).convert("RGBA").resize(box, how)
        self.image.paste(pixels, (round(x), round(y)), mask=pixels)


def _rgba(colour: str, opacity: float) -> tuple[int, int, int, int]:
    return (*rgb(colour), round(255 * opacity))


def _dashes(line: list[Point], pattern: list[float]) -> list[tuple[Point, Point]]:
    """The inked pieces of a dashed line; the pattern runs on around the corners, as in SVG."""
    pieces, index, left = [], 0, pattern[0]
    for (x0, y0), (x1, y1) in pairwise(line):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        done = 0.0
        while length - done > 1e-6:
            step = min(left, length - done)
            if index % 2 == 0:
                a, b = done / length, (done + step) / length
                start = (x0 + a * (x1 - x0), y0 + a * (y1 - y0))
                pieces.append((start, (x0 + b * (x1 - x0), y0 + b * (y1 - y0))))
            done, left = done + step, left - step
            if left <= 1e-6:
                index += 1
                left = pattern[index % len(pattern)]
    return pieces
