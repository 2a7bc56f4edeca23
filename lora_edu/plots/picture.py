"""A still picture with the words that stand for it: what a notebook keeps when no kernel runs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_edu.plots.canvas import Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A PNG and its alt text. As a cell's last value it shows itself and keeps the alt text in the notebook.

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
            return cls(drawing.png(), alt, round(drawing.width), summary or alt)
        import matplotlib.pyplot as plt

        buffer = io.BytesIO()
        drawing.savefig(
            buffer, format="png", dpi=144, facecolor="white", bbox_inches="tight", metadata={"Software": None}
        )
        plt.close(drawing)
        png = buffer.getvalue()
        pixels = int.from_bytes(png[16:20], "big")  # the PNG header's own width
        return cls(png, alt, pixels // 2, summary or alt)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.summary}
        return data, {"image/png": {"alt": self.alt, "width": self.width}}
