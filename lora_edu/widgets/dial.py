"""Chapter 00: an adapter is a dial on a model. Turn it and read the answers, and what they cost."""

from __future__ import annotations

import difflib
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ipywidgets

from lora_edu.errors import DataError
from lora_edu.files import write_whole
from lora_edu.plots.axes import Axes, number, ticks
from lora_edu.plots.canvas import Canvas
from lora_edu.plots.palette import BLUE, CYCLE, DASHES, INK, MUTED, RULE
from lora_edu.plots.raster import font, wrapped
from lora_edu.widgets.base import WIDTH, State, Widget

LINES = 2  # an answer longer than this many lines is cut
LANDMARKS = {0.0: " (base)", 1.0: " (as trained)"}


@dataclass(frozen=True)
class DialData:
    """What was measured at each scale, so that the page answers at once.

    Attributes:
        scales: the adapter's scale, from small to large; 0 is the base model, 1 the adapter as trained.
        prompts: what was asked.
        answers: a list for each scale, with an answer for each prompt.
        curves: name → a loss for each scale, in nats a token (lower is better).
        base: the base model's fingerprint (`checkpoint.fingerprint`).
        made_by: the command that makes this file again.
    """

    scales: list[float]
    prompts: list[str]
    answers: list[list[str]]
    curves: Mapping[str, list[float]]
    base: str
    made_by: str
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.scales)
        if n < 2 or list(self.scales) != sorted(set(self.scales)):
            raise DataError(f"the dial needs two scales or more, rising: {self.scales}")
        if len(self.answers) != n or any(len(each) != len(self.prompts) for each in self.answers):
            raise DataError(f"the dial needs {len(self.prompts)} answers at each of {n} scales")
        for name, values in self.curves.items():
            if len(values) != n:
                raise DataError(f"the curve {name!r} has {len(values)} values for {n} scales")

    @classmethod
    def read(cls, path: Path) -> DialData:
        """Read what `write` wrote; DataError when a field is missing, unknown or does not fit the others."""
        try:
            return cls(**json.loads(Path(path).read_text("utf-8")))
        except (OSError, json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{path} holds no dial data: {error}") from error

    def write(self, path: Path) -> None:
        write_whole(Path(path), json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")


class AdapterDial(Widget):
    """A slider on an adapter's scale, with stored answers, the measured losses, and (with `ask`) the reader's own question.

    It opens at 0, the base. Words of an answer that the base's answer does not hold in this place are bold and underlined.
    Chapter 00. `ask(prompt, scale) -> answer` runs the model; without it the widget needs no model at all. `curves=False`
    leaves the losses for later.
    """

    title = "The adapter dial"
    question = "At which scale is the style clearly there while the general loss has hardly risen?"
    computes_on = ("scale",)

    def __init__(self, data: DialData, ask: Callable[[str, float], str] | None = None, curves: bool = True) -> None:
        self.data, self.ask, self.curves = data, ask, curves
        if not curves:
            self.question = "At which scale does the model begin to speak like the King James Bible?"
        self._base = min(range(len(data.scales)), key=lambda i: abs(data.scales[i]))
        # Synchronised at each key, so that Enter, which comes before a text field's own change, finds the whole sentence.
        self.own = ipywidgets.Text(placeholder="a sentence of your own", description="ask", layout={"width": "420px"})
        self.own.style.description_width = "initial"
        self.button = ipywidgets.Button(description="Ask at this scale", tooltip="Runs the model: a few seconds")
        # The reply's room is there from the beginning: nothing jumps when it comes.
        self.reply = ipywidgets.HTML(layout={"width": "100%", "min_height": "56px"})
        self.button.on_click(self._on_ask)
        with warnings.catch_warnings():  # on_submit is deprecated for `observe`, which would ask at Tab as well
            warnings.simplefilter("ignore", DeprecationWarning)
            self.own.on_submit(self._on_ask)
        options = [(number(scale) + LANDMARKS.get(scale, ""), scale) for scale in data.scales]
        super().__init__(
            scale=ipywidgets.SelectionSlider(
                options=options, index=self._base, description="scale", layout={"width": "560px"}
            )
        )

    def extras(self) -> list[ipywidgets.Widget]:
        return [self.own, self.button, self.reply] if self.ask else []

    def _on_ask(self, _: object) -> None:
        from html import escape

        with self.reported():
            question, scale = self.own.value.strip(), self.controls["scale"].value
            if question and self.ask:
                self.reply.value = (
                    f"at scale {number(scale)}: <b>{escape(question)}</b> → <i>the model is writing …</i>"
                )
                answer = self.ask(question, scale)
                self.reply.value = f"at scale {number(scale)}: <b>{escape(question)}</b> → {escape(answer)}"

    def compute(self, state: State) -> int:
        """Which of the stored scales this is."""
        return self.data.scales.index(state["scale"])

    def draw(self, state: State, result: int) -> Canvas:
        data, at = self.data, result
        top = 8
        canvas = Canvas(WIDTH, 60 * len(data.prompts) + (262 if self.curves else 28))
        told = []
        for prompt, base, answer in zip(data.prompts, data.answers[self._base], data.answers[at]):
            canvas.path([(8, top + 2), (8, top + 48)], stroke=BLUE, width=3)
            canvas.text(20, top + 12, prompt, 12, MUTED)
            marks = iter(_differs(base, answer))
            for line, words in enumerate(_lines(answer or "(no answer)")):
                _line_of_words(canvas, top + 30 + 18 * line, words, marks)
            told.append(f"“{prompt}” is answered “{answer}”.")
            top += 60
        canvas.text(20, top + 10, "bold and underlined: not in the base's answer", 11, MUTED)
        losses = ", ".join(f"{name} {number(values[at])}" for name, values in data.curves.items())
        canvas.alt = f"At scale {number(state['scale'])}: {' '.join(told)}"
        if self.curves:
            _draw_losses(canvas, top + 46, data, at)
            canvas.alt += f" Loss in nats a token: {losses}; curves over all scales below."
        return canvas


def _pieces(answer: str) -> list[str]:
    """The words; an endless one in pieces that fit on a line."""
    return [word[k : k + 40] for word in answer.split() for k in range(0, len(word), 40)]


def _differs(base: str, answer: str) -> list[bool]:
    """For each word of the answer, whether the base's answer lacks it in this place."""
    words = _pieces(answer)
    marks = [True] * len(words)
    for block in difflib.SequenceMatcher(None, _pieces(base), words, autojunk=False).get_matching_blocks():
        marks[block.b : block.b + block.size] = [False] * block.size
    return marks


def _line_of_words(canvas: Canvas, y: float, line: str, marks: Iterator[bool]) -> None:
    """One line of an answer at x = 20; runs of words that differ from the base's are bold, with a line under them."""
    words = line.removesuffix(" …").split()
    marked = [next(marks, False) for _ in words]
    x = 20.0
    for new, run in itertools.groupby(zip(words, marked), key=lambda pair: pair[1]):
        text = " ".join(word for word, _ in run)
        width = font(14, bold=new).getlength(text)
        canvas.text(x, y, text, 14, INK, bold=new)
        if new:
            canvas.path([(x, y + 3), (x + width, y + 3)], stroke=BLUE, width=1.5)
        x += width + font(14).getlength(" ")
    if line.endswith("…"):
        canvas.text(x, y, "…", 14, INK)


def _draw_losses(canvas: Canvas, top: float, data: DialData, at: int) -> None:
    values = [v for curve in data.curves.values() for v in curve]
    low, high = min(values), max(values)
    room = 0.08 * (high - low or 1)
    axes = Axes(canvas, (40, top, 500, 150), (data.scales[0], data.scales[-1]), (max(0.0, low - room), high + room))
    axes.frame(
        ticks(data.scales[0], data.scales[-1], 6),
        ticks(*axes.ylim),
        "scale of the adapter",
        "loss (nats a token; lower is better)",
    )
    for scale, name in ((0.0, "base"), (1.0, "as trained")):
        if data.scales[0] <= scale <= data.scales[-1]:
            canvas.path([(axes.x(scale), top), (axes.x(scale), top + 150)], stroke=RULE, width=1)
            canvas.text(axes.x(scale) + 4, top + 10, name, 10, MUTED)
    axes.rule_at(data.scales[at])
    for row, (name, curve) in enumerate(data.curves.items()):
        axes.line(data.scales, curve, CYCLE[row], width=2.5, dash=DASHES[row])
        y = top + 24 + 50 * row
        canvas.path([(560, y - 4), (590, y - 4)], stroke=CYCLE[row], width=2.5, dash=DASHES[row])
        for point in (axes.at(data.scales[at], curve[at]), (575, y - 4)):
            _mark(canvas, point, row)
        canvas.text(560, y + 14, name, 12)
        canvas.text(598, y, number(curve[at]), 14, bold=True)


def _mark(canvas: Canvas, at: tuple[float, float], row: int) -> None:
    """A round point on the first curve, a square one on the second, and so on: told apart without their colours."""
    x, y = at
    if row % 2:
        canvas.rect(x - 5, y - 5, 10, 10, fill=CYCLE[row], stroke=INK)
    else:
        canvas.dot(x, y, 5, CYCLE[row], INK)


def _lines(answer: str, size: float = 14, width: float = WIDTH - 130) -> list[str]:
    """The answer in at most LINES lines that fit, with an ellipsis where the rest is left out.

    A model that is turned too far may answer without a space: long words are broken.
    """
    lines = wrapped(" ".join(_pieces(answer)), size, width)
    if len(lines) <= LINES:
        return lines
    last = wrapped(lines[LINES - 1], size, width - 2 * size)[0]  # room for the ellipsis
    return [*lines[: LINES - 1], f"{last} …"]
