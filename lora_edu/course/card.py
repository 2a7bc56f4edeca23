"""What a course function shows in a cell: one text, the same as HTML, and, where a kernel runs, a form to answer in.

A page without a kernel shows the HTML, a terminal the text. Both are the same on every run, so a strict notebook test compares them.
State is told by a sign and a word, never by colour alone; colours come from JupyterLab's theme.
"""

import html
import re
from collections.abc import Iterable
from typing import Any

SIGNS = {"right": "✓", "wrong": "✗", "open": "○", "ask": "?"}
_EDGES = {
    "right": ("#2e7d32", "--jp-success-color1"),
    "wrong": ("#b26a00", "--jp-warn-color1"),
    "open": ("#8a8a8a", "--jp-border-color1"),
    "ask": ("#1976d2", "--jp-brand-color1"),
    "note": ("#8a8a8a", "--jp-border-color1"),
}
# Each declaration stands twice, plain and then from the theme: of a notebook that it does not trust JupyterLab strips `var(…)`.
FONT = "font-family:sans-serif;font-family:var(--jp-content-font-family, system-ui, sans-serif)"
FAINT = "background-color:rgba(128, 128, 128, 0.12);background-color:var(--jp-layout-color2, rgba(128, 128, 128, 0.12))"


def inline(text: str) -> str:
    """Plain text to HTML: escaped, `code` set as code, *words* with stress, line breaks kept."""
    parts = re.split(r"`([^`]+)`", html.escape(text, quote=False))  # every second one is code
    for i, part in enumerate(parts):
        parts[i] = f"<code>{part}</code>" if i % 2 else re.sub(r"\*(\w[^*]*\w|\w)\*", r"<em>\1</em>", part)
    return "".join(parts).replace("\n", "<br>")


def sentence(text: str) -> str:
    """`text` with a full stop, and a capital where it starts with a plain word: never α, r or grad_A, which would mean something else."""
    if re.match(r"(a|[a-z]{2,})(?=[\s,:;.?!-]|$)", text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def panel(body: str, kind: str = "note") -> str:
    """HTML `body` in a quiet box whose edge repeats in colour what the sign in the text says."""
    plain, theme = _EDGES[kind]
    edge = f"border-left:4px solid {plain};border-left-color:var({theme}, {plain})"
    style = f"{FONT};max-width:46em;line-height:1.5;padding:.4em .9em;margin:.3em 0;{edge};{FAINT}"
    return f'<div style="{style}">{body}</div>'


def lettered(options: Iterable[tuple[str, str]]) -> str:
    """(letter, HTML) pairs as lines "a) …". The letters are text: a list's own would turn into figures under JupyterLab's style."""
    style = "margin:0 0 .2em 1.6em;text-indent:-1.2em"
    return "".join(f'<div style="{style}">{letter}) {body}</div>' for letter, body in options)


def number(value: float) -> str:
    """At most four significant digits and no exponent where people would write none: 331,776 or 0.0312."""
    value = float(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.0f}" if 1e3 <= abs(rounded) < 1e15 else f"{value:.3g}"


class Card:
    """Text and HTML of one message. `print` shows the text; as a cell's last value it shows itself.

    Args: text: plain text, also `str(card)`. body: its HTML (default: the text). kind: one of `SIGNS`, or "note".
    """

    def __init__(self, text: str, body: str | None = None, kind: str = "note") -> None:
        self.text, self.kind = text, kind
        self.html = panel(inline(text) if body is None else body, kind)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def form(self) -> Any:
        """The ipywidgets form to answer in, or None where there is nothing to answer."""
        return None

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        form = self.form()
        live = form._repr_mimebundle_() if form is not None else {}
        return live | {"text/plain": self.text, "text/html": self.html}
