"""A still picture with the words that stand for it: what a notebook keeps when no kernel runs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from lora_edu.plots.canvas import Canvas, png_bytes
from lora_edu.plots.palette import RULE, rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 2  # pixels of the file to a pixel of the page


@dataclass(frozen=True)
class Picture:
    """A PNG and its alt text. As a cell's last value it shows itself, alt text included.

    Attributes:
        png: the file's bytes.
        alt: what the picture shows, for whoever cannot see it.
        width: width on the page in pixels.
        summary: the output's `text/plain`, the same on every machine; the alt text may quote measured numbers.
    """

    png: bytes
    alt: str
    width: int
    summary: str

    @classmethod
    def of(cls, drawing: Canvas | Figure, alt: str = "", summary: str = "") -> Picture:
        """A picture of a `Canvas` or of a matplotlib figure, which is closed so that no cell shows it twice.

        Raises:
            ValueError: there is no alt text.
        """
        alt = alt or (drawing.alt if isinstance(drawing, Canvas) else "")
        if not alt.strip():
            raise ValueError("a picture needs alt text: say in a sentence what it shows, Picture.of(figure, alt='…')")
        if isinstance(drawing, Canvas):
            from lora_edu.plots.raster import paint

            return cls(_card(paint(drawing, SCALE)), alt, round(drawing.width), summary or alt)
        import matplotlib.pyplot as plt

        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=72 * SCALE, facecolor="white", bbox_inches="tight", pad_inches=0.16)
        plt.close(drawing)
        sheet = Image.open(buffer).convert("RGB")
        return cls(_card(sheet), alt, sheet.width // SCALE, summary or alt)

    def html(self) -> str:
        """The picture as an `<img>`. Its alt text stands in the page: JupyterLab and nbconvert leave an output's metadata unread."""
        code = base64.b64encode(self.png).decode()
        return f'<img alt="{escape(self.alt)}" width="{self.width}" style="max-width:100%" src="data:image/png;base64,{code}">'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.summary}


def _card(sheet: Image.Image) -> bytes:
    """The sheet (RGB) with round corners and a thin rim: on a dark page it lies like a card, on a white one it has an edge.

    A PNG of at most 255 colours and "clear": a third of the bytes, no difference to the eye.
    """
    edge, radius = (0, 0, sheet.width - 1, sheet.height - 1), 8 * SCALE
    ImageDraw.Draw(sheet).rounded_rectangle(edge, radius, outline=rgb(RULE), width=SCALE)
    outside = Image.new("L", sheet.size, 255)
    ImageDraw.Draw(outside).rounded_rectangle(edge, radius, fill=0)
    card = sheet.quantize(255)
    card.putpalette([*(card.getpalette() or ()), *[255] * 768][:768])  # or a sheet of few colours has no number 255
    card.paste(255, mask=outside)
    card.info["transparency"] = 255
    return png_bytes(card)
