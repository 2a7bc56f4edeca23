"""Pure functions that draw: data in, SVG, PNG or a picture with alt text out. Nothing here computes or trains."""

from lora_edu.plots.axes import Axes, decades, number, percent, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import (
    BLUE,
    CYCLE,
    DASHES,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RULE,
    SKY,
    VERMILION,
    WASH,
    heatmap,
)
from lora_edu.plots.picture import Picture
from lora_edu.plots.raster import wrapped

__all__ = [
    "BLUE",
    "CYCLE",
    "DASHES",
    "GREEN",
    "INK",
    "MUTED",
    "ORANGE",
    "PAPER",
    "PURPLE",
    "RULE",
    "SKY",
    "VERMILION",
    "WASH",
    "Axes",
    "Canvas",
    "Picture",
    "decades",
    "heatmap",
    "number",
    "percent",
    "ticks",
    "wrapped",
]
