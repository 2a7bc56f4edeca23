"""One palette for every picture of the course: readable on white and on dark, and by the colour-blind.

The hues are those of Okabe and Ito, "Color Universal Design" (2008). A drawing never leans on colour alone: a line has
its own dash, a point its own shape, a bar its own label.
"""

import numpy as np

BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
# In the order in which a chart hands them out; yellow is left out because it fades on white paper.
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 4), (2, 3), (9, 3, 2, 3), (12, 4), (1, 5))

# Neutral roles. On the page they follow the reader's theme; in a still picture they are ink on white paper.
INK, MUTED, RULE, WASH, PAPER = "ink", "muted", "rule", "wash", "paper"
ON_PAGE = {
    INK: "var(--jp-content-font-color1, currentColor)",
    MUTED: "var(--jp-content-font-color2, currentColor)",
    RULE: "var(--jp-border-color1, #9e9e9e)",
    WASH: "var(--jp-layout-color2, rgba(128, 128, 128, 0.15))",
    PAPER: "var(--jp-layout-color0, transparent)",
}
ON_PAPER = {INK: "#1a1a1a", MUTED: "#595959", RULE: "#b5b5b5", WASH: "#eeeeee", PAPER: "#ffffff"}


LEVELS = 24


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0-255) of a role's name or of "#rrggbb", as a still picture shows it."""
    code = ON_PAPER.get(colour, colour)
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def heatmap(matrix: np.ndarray, limit: float | None = None) -> np.ndarray:
    """The entries of a matrix as pixels: blue below zero, clear at zero and nowhere else, vermilion above.

    Clear, not white: a matrix of zeros looks empty on a dark page too.

    A sign has `LEVELS` shades: more cannot be told apart and make a picture of noise four times as large.

    Args:
        matrix: (m, n), any real dtype.
        limit: the absolute value that gets the full colour; the matrix's largest by default.

    Returns:
        (m, n, 4) uint8, red, green, blue, opacity. Entries that are not numbers are grey.
    """
    values = np.asarray(matrix, dtype=np.float32)
    finite = np.isfinite(values)
    if limit is None:
        limit = float(np.abs(values[finite]).max(initial=0.0))
    shade = np.where(finite, values, 0) * (LEVELS / (limit or 1.0))
    # Away from zero, so that only zero is clear; the 1e-5 keeps a value that is a whole shade at that shade.
    shade = np.clip(np.trunc(shade + np.sign(shade) * (1 - 1e-5)), -LEVELS, LEVELS)
    pixels = _SHADES[shade.astype(np.int8) + LEVELS]
    pixels[~finite] = (160, 160, 160, 255)
    return pixels


def _shades() -> np.ndarray:
    """The colours of shades −LEVELS … LEVELS: (2·LEVELS + 1, 4) uint8."""
    share = np.arange(-LEVELS, LEVELS + 1)[:, None] / LEVELS
    hue = np.where(share < 0, np.array(rgb(BLUE)), np.array(rgb(VERMILION)))
    return np.hstack([hue, 255 * np.abs(share)]).round().astype(np.uint8)


_SHADES = _shades()
